"""Which runtimes a device has, and wheels of the right kind for a device that has none."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from configs.errors import StepFailed, UserError
from eval.devices.machine import package_version

RUNTIMES = {
    ".tflite": ("ai-edge-litert", ("ai_edge_litert", "tflite_runtime")),
    ".onnx": ("onnxruntime", ("onnxruntime",)),
    "openvino": ("openvino", ("openvino",)),
}
"""By the ending of a file, or the name of a runtime: the package to install, and the modules of
which any one is enough."""

OLDEST_GLIBC = 17
"""The minor version of glibc of manylinux2014. New packages support nothing older."""


@dataclass(frozen=True)
class Runtime:
    """What executes one kind of file.

    Attributes:
        pin: the package, in the version that is installed here.
        modules: the modules of which any one is enough.
    """

    pin: str
    modules: tuple[str, ...]


def runtime_for(kind: str) -> Runtime | None:
    """The runtime of a key of RUNTIMES; None for another ending, which the probe will refuse."""
    if kind not in RUNTIMES:
        return None
    package, modules = RUNTIMES[kind]
    version = package_version(package)
    return Runtime(f"{package}=={version}" if version else package, modules)


DESCRIBE = f"""
import importlib.util, json, os, platform, sys
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
cpu = ""
try:
    for line in open("/proc/cpuinfo"):
        if line.split(":")[0].strip() in ("model name", "Model"):
            cpu = line.partition(":")[2].strip()
except OSError:
    pass
modules = {json.dumps(["numpy", *(m for _, modules in RUNTIMES.values() for m in modules)])}
print(sys.argv[1], json.dumps({{
    "cpu": cpu or platform.machine(),
    "num_cores": os.cpu_count(),
    "os": " ".join([platform.system(), platform.release(), platform.machine()]),
    "python": platform.python_version(),
    "arch": platform.machine(),
    "libc": list(platform.libc_ver()),
    "modules": {{m: version(m.replace("_", "-")) for m in modules if importlib.util.find_spec(m)}},
}}))
"""
"""A program that prints the Facts of a machine, behind its first argument. It runs in the Python of
a device, so it uses nothing newer than Python 3.8."""


@dataclass(frozen=True)
class Target:
    """The Python that wheels are for.

    Attributes:
        python: major and minor version: "3.11".
        arch: as platform.machine() reports it: aarch64, x86_64, armv7l.
        glibc: minor version of glibc 2; None for another C library (musl).
    """

    python: str
    arch: str
    glibc: int | None

    def describe(self) -> str:
        """What errors call it."""
        libc = "musl or another C library" if self.glibc is None else f"glibc 2.{self.glibc}"
        return f"Python {self.python} on {self.arch} with {libc}"


@dataclass(frozen=True)
class Facts:
    """What the Python of a device says about its machine.

    Attributes:
        arch: as platform.machine() reports it.
        libc: name and version of the C library.
        modules: versions of numpy and of the runtimes that it can import; "" where unknown.
    """

    cpu: str
    num_cores: int | None
    os: str
    python: str
    arch: str
    libc: tuple[str, str]
    modules: dict[str, str]

    @property
    def target(self) -> Target:
        """The kind of wheels that its Python takes."""
        name, version = self.libc
        return Target(
            python=".".join(self.python.split(".")[:2]),
            arch=self.arch,
            glibc=int(version.split(".")[1]) if name == "glibc" else None,
        )


def download(package: str, target: Target, folder: Path, source: Path | None) -> list[Path]:
    """The wheels of a package and of everything it needs, for another machine.

    If there is none of the version in `package` (name==version), another version is taken.

    Args:
        folder: where the wheels go.
        source: a folder that contains them; by default they come from the index of pip.

    Raises:
        UserError: there are no wheels for that machine.
        StepFailed: this Python has no pip.
    """
    if target.glibc is None or target.arch not in ("x86_64", "aarch64"):
        raise UserError(
            f"there are no wheels of {package} for {target.describe()}. Install a runtime there "
            "(tflite-runtime or onnxruntime, and numpy) and name its Python with the option python."
        )
    result = _pip_download(package, target, folder, source)
    if result.returncode and "==" in package:
        # An old Python may have no wheels of the version installed here. Results name the version.
        result = _pip_download(package.partition("==")[0], target, folder, source)
    if "No module named pip" in result.stderr:
        raise StepFailed(
            f"this Python has no pip to download {package} with. "
            "Give a folder of wheels: --wheels DIR"
        )
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else ""
        where = f"in {source}" if source else "to download"
        raise UserError(
            f"no wheels of {package} {where} for {target.describe()}: {reason}\n"
            "Collect them where there is a network (pip download) and give their folder with "
            "--wheels, or install a runtime there and name its Python with the option python."
        )
    return sorted(folder.glob("*.whl"))


def _pip_download(
    package: str, target: Target, folder: Path, source: Path | None
) -> "subprocess.CompletedProcess[str]":
    assert target.glibc is not None
    index = ["--no-index", "--find-links", str(source)] if source else []
    tags = [f"manylinux_2_{n}" for n in range(target.glibc, OLDEST_GLIBC - 1, -1)]
    platforms = [f"--platform={tag}_{target.arch}" for tag in [*tags, "manylinux2014"]]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", target.python,
        "--dest", str(folder), *platforms, *index, package,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True)
