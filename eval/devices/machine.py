"""What a machine is: `machine` of report.json, and which packages are installed here."""

from dataclasses import dataclass
from importlib import metadata

from eval.devices.probe import MachineState, machine_state

PACKAGES = [
    "potstill",
    "tensorflow",
    "keras",
    "tf-keras",
    "tensorflow-model-optimization",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai-edge-litert",
    "openvino",
    "numpy",
    "pillow",
]


@dataclass(frozen=True)
class Machine:
    """A machine that executes files; None where it does not say.

    Attributes:
        isa: the instruction sets that int8 arithmetic can use.
        packages: versions of the packages that are installed there.
    """

    cpu: str | None
    num_cores: int | None
    isa: tuple[str, ...] | None
    os: str | None
    python: str | None
    packages: dict[str, str] | None

    @classmethod
    def of_state(cls, state: MachineState, *, packages: dict[str, str] | None = None) -> "Machine":
        """The machine whose state a probe reported."""
        return cls(
            cpu=state.cpu,
            num_cores=state.num_cores,
            isa=state.isa,
            os=state.os,
            python=state.python,
            packages=packages,
        )


def this_machine() -> Machine:
    """The machine that this process runs on."""
    state = machine_state()
    return Machine(
        cpu=state.cpu,
        num_cores=state.num_cores,
        isa=state.isa or (),
        os=state.os,
        python=state.python,
        packages=installed_packages(),
    )


def installed_packages() -> dict[str, str]:
    """Versions of the packages that make files, as far as they are installed here."""
    versions = {name: package_version(name) for name in PACKAGES}
    return {name: version for name, version in versions.items() if version}


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
