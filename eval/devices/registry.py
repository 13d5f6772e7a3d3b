"""`DEVICES`: the machines that files can be timed on, and how they are named."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from configs.errors import UserError
from configs.loading.yaml_text import parse_yaml
from configs.registry import Registry
from eval.devices.android import Phone
from eval.devices.local import PROBE, LocalDevice
from eval.devices.machine import Machine
from eval.devices.probe import Finished, MachineState, OperatorTime, Ready
from eval.devices.ssh import Board

ADDRESSES = ("host", "serial", "called")
"""The options that say which machine of its kind a device is."""
DETAILS = ("openvino", "headless", "webgpu")
"""Options that are part of a label, and may follow the name on a command line: browser:headless."""

Options = Mapping[str, Any]
"""The options of a device, as a config or the command line gives them."""


def device_label(name: str, options: Options) -> str:
    """What results call a device: local, ssh:pi@kitchen or local (openvino, cores 1 2)."""
    address = next((options[key] for key in ADDRESSES if options.get(key)), None)
    label = name if address is None else f"{name}:{address}"
    details = [key for key in DETAILS if options.get(key)]
    if options.get("cores"):
        details.append(f"cores {' '.join(map(str, options['cores']))}")
    return f"{label} ({', '.join(details)})" if details else label


DEVICES = Registry("device", label=device_label)


class Session(Protocol):
    """One file at work on a device; see ProbeSession.

    Attributes:
        ready: what was reported when the file was loaded.
    """

    ready: Ready

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` executions, or their mean alone."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The answer of the file, (classes,), to one float32 image as the file takes it."""

    def state(self) -> MachineState:
        """What affects times on the device now."""

    def profile(self, count: int) -> list[OperatorTime]:
        """How long each type of operator takes, over `count` executions; the longest first."""

    def reopen(self) -> None:
        """Load the file again in a new process, which sets `ready` anew."""

    def close(self) -> Finished:
        """End the session; returns its peak memory and the state of the device."""

    def kill(self) -> None:
        """End the session whatever it does."""


class Device(Protocol):
    """A machine that executes files, while its context is open.

    Attributes:
        formats: endings of the files that it executes.
        reports_means: `run` of its sessions returns one mean, not the time of each execution.
    """

    formats: tuple[str, ...]
    reports_means: bool

    def open(self, file: Path, *, num_threads: int) -> Session:
        """A session that has loaded a file there."""

    def machine(self) -> Machine:
        """What the machine is."""

    def is_back(self) -> bool:
        """Whether it can be reached again after DeviceLost."""


@DEVICES.add
@contextmanager
def local(cores: list[int] | None = None, openvino: bool = False) -> Iterator[Device]:
    """This machine, with the runtimes that are installed for this Python.

    Args:
        cores: the cores that a file may run on, by their numbers in the system; all by default.
        openvino: execute files in OpenVINO instead of LiteRT and ONNX Runtime.
    """
    yield LocalDevice(cores=cores, openvino=openvino)


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

    The probe and the files are copied there, checked by their digests, and removed at the end. A
    machine without a runtime gets one as unpacked wheels, which stay there for the next time.

    Args:
        host: as ssh takes it: [user@]name, or a Host of its configuration.
        python: the Python there; `~` is the home directory there. If it has numpy and a runtime,
            these are used.
        cores: the cores that a file may run on; all by default.
        openvino: execute files in OpenVINO instead of LiteRT and ONNX Runtime.
        wheels: a folder here with wheels for the device, where this machine cannot download them.
        config: an ssh configuration file here, to use instead of the user's.
    """
    if not host or host.startswith("-") or len(host.split()) != 1:
        raise UserError(f"ssh needs a host, as in {{name: ssh, host: pi@kitchen}}; got {host!r}.")
    with Board(
        host,
        python=python,
        cores=cores,
        openvino=openvino,
        wheels=None if wheels is None else path_here(wheels),
        config=None if config is None else path_here(config),
        probe=PROBE,
    ) as board:
        yield board


@DEVICES.add
@contextmanager
def android(serial: str = "", benchmark_model: str = "", adb: str = "adb") -> Iterator[Device]:
    """An Android phone that the user's own `adb` reaches; it times .tflite files.

    Args:
        serial: which phone, if there are several, as `adb devices` lists them.
        benchmark_model: a file here: the program of that name for the phone's processor, which
            Google publishes with LiteRT. It is copied to the phone.
        adb: the program here.
    """
    program = path_here(benchmark_model)
    if not program.is_file():
        raise UserError(
            f"android needs the program benchmark_model for the phone; got {benchmark_model!r}. "
            "Download it, and give its path: {name: android, benchmark_model: PATH}."
        )
    with Phone(serial, benchmark_model=program, adb=str(path_here(adb))) as phone:
        yield phone


@DEVICES.add
@contextmanager
def browser(
    called: str = "",
    headless: bool = False,
    https: bool = False,
    webgpu: bool = False,
    port: int = 0,
    program: str = "",
) -> Iterator[Device]:
    """A browser, on a phone or elsewhere: whoever opens the printed address runs the files there.

    Files run on WebAssembly, .tflite in LiteRT.js and .onnx in ONNX Runtime Web. The answers of
    each file are compared with those of this machine before it is timed.

    Args:
        called: a name of yours, to tell several phones apart.
        headless: start a headless Chromium on this machine.
        https: sign a certificate for this machine, because browsers give threads to pages over
            https alone, or on their own machine.
        webgpu: run on the graphics processor by WebGPU instead.
        port: of the address; 0 for any that is free.
        program: the Chromium to start; by default the one that is found here.
    """
    try:
        from eval.devices.browser.device import Browser
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'potstill[serve]'") from None
    with Browser(
        headless=headless, https=https, webgpu=webgpu, port=port, program=program
    ) as device:
        yield device


def path_here(text: str) -> Path:
    """A path on this machine, with `~` for the home directory here.

    Raises:
        UserError: there is no user of that name.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such user here. Write out the path.") from None


@dataclass(frozen=True)
class DeviceCheck:
    """Whether a device can be used.

    Attributes:
        device: its label.
        machine: what it is; None where it cannot be used.
        problem: why it cannot be used, or None.
    """

    device: str
    machine: Machine | None = None
    problem: str | None = None


def check_device(name: str, options: Options) -> DeviceCheck:
    """Reach a device and ask what it is."""
    label = device_label(name, options)
    try:
        with DEVICES[name](**options) as device:
            return DeviceCheck(label, machine=device.machine())
    except UserError as error:
        return DeviceCheck(label, problem=str(error))


def parse_device(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the checked options of a device on a command line.

    Args:
        text: a name (local), name:address (ssh:pi@kitchen), name:detail (browser:headless), or an
            entry of a config ("{name: ssh, host: pi@kitchen, python: python3.11}").

    Raises:
        UserError: there is no such device or option.
    """
    if text.startswith("{"):
        name, options = _parse_mapping(text)
        return name, DEVICES.check(name, options)
    name, _, address = text.partition(":")
    if not address:
        return name, DEVICES.check(name, {})
    allowed = DEVICES.options(name)
    if address in DETAILS and address in allowed:
        return name, DEVICES.check(name, {address: True})
    key = next((key for key in ADDRESSES if key in allowed), None)
    if key is None:
        raise UserError(f"--device {text}: the device {name} has no address.")
    return name, DEVICES.check(name, {key: address})


def _parse_mapping(text: str) -> tuple[str, dict[str, Any]]:
    try:
        values = parse_yaml(text)
        return str(values["name"]), {key: values[key] for key in values if key != "name"}
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"--device {text} cannot be read. Expected a device as in a config: "
            "{name: ssh, host: pi@kitchen}."
        ) from None
