"""`DEVICES`: where a probe runs."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.errors import UserError
from configs.registry import Registry
from configs.yaml_text import parse_yaml
from eval.devices.android import Phone
from eval.devices.machine import machine
from eval.devices.session import ProbeSession, probe_words
from eval.devices.ssh import Board

PROBE = Path(__file__).with_name("probe.py")
# The option that says which of its kind a device is.
ADDRESSES = ("host", "serial")


def device_label(name: str, options: Mapping[str, Any]) -> str:
    """What results call a device: local, ssh:pi@kitchen or local (openvino, cores 1 2)."""
    address = next((options[key] for key in ADDRESSES if options.get(key)), None)
    label = name if address is None else f"{name}:{address}"
    cores = options.get("cores") or []
    told = ["openvino"] * bool(options.get("openvino"))
    told += [f"cores {' '.join(map(str, cores))}"] * bool(cores)
    return f"{label} ({', '.join(told)})" if told else label


DEVICES = Registry("device", label=device_label)


class Session(Protocol):
    """One file at work on a device; see ProbeSession.

    Attributes:
        ready: load_ms, first_ms, runtime, runtime_version, batch.
    """

    ready: dict[str, Any]

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` executions; their mean alone where no more is known."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        """What the file answers, (classes,), to one float32 image as it takes them."""

    def state(self) -> dict[str, Any]:
        """What moves times over there, as far as it is known: `probe.machine_state`."""

    def profile(self, count: int) -> list[dict[str, Any]]:
        """What its types of operators take of an execution, from `count`; the longest first."""

    def reopen(self) -> None:
        """Load the file again in a new process; `ready` is what that one said."""

    def close(self) -> dict[str, Any]:
        """End it; returns peak_rss_mib and, as far as it is known, state."""

    def kill(self) -> None:
        """End it whatever it does."""


class Device(Protocol):
    """A machine that runs probes, while its context is open.

    Attributes:
        formats: endings of the files that it runs.
        tells_means: `run` of its sessions tells the mean of the executions alone.
    """

    formats: tuple[str, ...]
    tells_means: bool

    def open(self, file: Path, *, num_threads: int) -> Session:
        """A session that has loaded a file there."""

    def machine(self) -> dict[str, Any]:
        """What it is: cpu, num_cores, os, python, packages (the runtimes and their versions)."""

    def is_back(self) -> bool:
        """Whether it can be reached again after DeviceLost."""


class _Here:
    formats: tuple[str, ...] = (".tflite", ".onnx")
    tells_means = False

    def __init__(self, cores: list[int] | None, openvino: bool) -> None:
        self._cores, self._openvino = cores, openvino

    def open(self, file: Path, *, num_threads: int) -> ProbeSession:
        # -P: the probe's folder holds a statistics.py, which must not hide Python's own.
        command = [sys.executable, "-P", str(PROBE)]
        words = probe_words(
            str(file), num_threads=num_threads, cores=self._cores, openvino=self._openvino
        )
        return ProbeSession([*command, *words], file)

    def machine(self) -> dict[str, Any]:
        return machine()

    def is_back(self) -> bool:
        return True


@DEVICES.add
@contextmanager
def local(cores: list[int] | None = None, openvino: bool = False) -> Iterator[Device]:
    """This machine, with the runtimes of this Python.

    Args:
        cores: those that a file may run on, by the numbers the system gives them; all where None.
        openvino: run files in OpenVINO instead of LiteRT and ONNX Runtime.
    """
    yield _Here(cores, openvino)


@DEVICES.add
@contextmanager
def ssh(
    host: str = "",
    python: str = "python3",
    cores: list[int] | None = None,
    openvino: bool = False,
    wheels: str | None = None,
    config: str | None = None,
) -> Iterator[Device]:
    """A Linux machine that the user's own `ssh` reaches: a Raspberry Pi, a Jetson, a server.

    The probe and the files are copied there, checked by digest, and removed at the end. Where
    no runtime is found, one is put beside them as unpacked wheels and kept for the next time.

    Args:
        host: as ssh takes it, [user@]name, or a Host of its configuration.
        python: the Python there; one with numpy and a runtime is used as it is.
        cores: those that a file may run on; all where None.
        openvino: run files in OpenVINO instead of LiteRT and ONNX Runtime.
        wheels: a folder of wheels for it, where this machine cannot download them.
        config: an ssh configuration file to use instead of the user's.
    """
    if not host or host.startswith("-") or len(host.split()) != 1:
        raise UserError(f"ssh needs a host, as in {{name: ssh, host: pi@kitchen}}; got {host!r}.")
    with Board(
        host,
        python=python,
        cores=cores,
        openvino=openvino,
        wheels=wheels,
        config=config,
        probe=PROBE,
    ) as board:
        yield board


@DEVICES.add
@contextmanager
def android(serial: str = "", benchmark_model: str = "", adb: str = "adb") -> Iterator[Device]:
    """An Android phone that the user's own `adb` reaches; it times .tflite files.

    Args:
        serial: which of several phones, as `adb devices` lists them.
        benchmark_model: the program of that name for the phone's processor, which Google
            publishes with LiteRT; it is copied to the phone.
        adb: the program here.
    """
    if not Path(benchmark_model).is_file():
        raise UserError(
            f"android needs the program benchmark_model for the phone; got {benchmark_model!r}. "
            "Download it, and give its path: {name: android, benchmark_model: PATH}."
        )
    with Phone(serial, benchmark_model=Path(benchmark_model), adb=adb) as phone:
        yield phone


def check_device(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A device looked at.

    Returns:
        device, its label; machine, what it is, or None; problem, why it cannot be used, or None.
    """
    found: dict[str, Any] = {"device": device_label(name, options), "machine": None}
    try:
        with DEVICES[name](**options) as device:
            return {**found, "machine": device.machine(), "problem": None}
    except UserError as error:
        return {**found, "problem": str(error)}


def parse_device(text: str) -> tuple[str, dict[str, Any]]:
    """Name and checked options of a device as a command line has it.

    Args:
        text: a name (local), name:address (ssh:pi@kitchen), or what a config would say
            ("{name: ssh, host: pi@kitchen, python: python3.11}").

    Raises:
        UserError: there is no such device or option.
    """
    options: Any = {}
    if text.startswith("{"):
        try:
            options = parse_yaml(text)
            name = str(options.pop("name"))
        except (ValueError, KeyError):
            raise UserError(f"--device {text}: expected {{name: ssh, host: pi@kitchen}}.") from None
    else:
        name, _, address = text.partition(":")
        if address:
            known = DEVICES.options(name)
            key = next((key for key in ADDRESSES if key in known), None)
            if key is None:
                raise UserError(f"--device {text}: the device {name} has no address.")
            options[key] = address
    return name, DEVICES.check(name, options)
