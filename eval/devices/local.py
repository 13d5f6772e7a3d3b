"""This machine as a device: probes run in the Python of this process."""

import sys
from pathlib import Path

from eval.devices.machine import Machine, this_machine
from eval.devices.session import ProbeSession, new_marker, probe_arguments

PROBE = Path(__file__).with_name("probe.py")


class LocalDevice:
    """This machine, with the runtimes that are installed for this Python."""

    formats: tuple[str, ...] = (".tflite", ".onnx")
    reports_means = False

    def __init__(self, *, cores: list[int] | None, openvino: bool) -> None:
        self._cores, self._openvino = cores, openvino

    def open(self, file: Path, *, num_threads: int) -> ProbeSession:
        """A probe that has loaded a file."""
        marker = new_marker()
        arguments = probe_arguments(
            str(file),
            marker=marker,
            num_threads=num_threads,
            cores=self._cores,
            openvino=self._openvino,
        )
        # With -P, no module beside the probe can hide one of Python's own.
        return ProbeSession([sys.executable, "-P", str(PROBE), *arguments], file, marker=marker)

    def machine(self) -> Machine:
        return this_machine()

    def is_back(self) -> bool:
        return True
