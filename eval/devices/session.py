"""The conversation with a probe, here or on a device: requests and answers over a pipe."""

import base64
import contextlib
import json
import os
import secrets
import selectors
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import StepFailed
from configs.records import from_json
from eval.devices.probe import Finished, MachineState, OperatorTime, Ready

LOADING_SECONDS = 300.0
"""How long a probe may take to start, load its runtime and its file, and execute it once."""
ANSWER_SECONDS = 60.0
"""How long a probe may take to answer, besides the executions that a request asks for."""
SLOWDOWN = 20.0
"""How many times as long as the slowest execution so far each further execution may take."""
BYTES_PER_SECOND = 50_000
"""The slowest network that is good enough."""
LOADED = "the message that the file is loaded"


Message = dict[str, Any]
"""A request or an answer, as JSON values."""


class DeviceLost(StepFailed):
    """A device went away in the middle of something; it may come back."""


def time_limit(seconds: float, *, executions: int, slowest_ms: float, num_bytes: int) -> float:
    """How many seconds the answer to a request may take.

    Args:
        seconds: what it may take besides its executions and its way.
        executions: how many executions it asks for.
        slowest_ms: of the executions so far.
        num_bytes: of the request.
    """
    return seconds + num_bytes / BYTES_PER_SECOND + executions * SLOWDOWN * slowest_ms / 1000


def new_marker() -> str:
    """What every answer of one probe begins with; drawn at random, so no other output does."""
    return f"potstill-{secrets.token_hex(8)}"


def probe_arguments(
    file: str, *, marker: str, num_threads: int, cores: list[int] | None, openvino: bool
) -> list[str]:
    """The arguments of the probe on its command line."""
    arguments = [file, "--marker", marker, "--num-threads", str(num_threads)]
    if cores:
        arguments += ["--cores", *map(str, cores)]
    return [*arguments, "--openvino"] if openvino else arguments


class ProbeSession:
    """One probe at work on one file, in a process of its own, until it is closed.

    Every file has its own process, so that load time and peak memory are those of this file.

    Attributes:
        ready: the first message of the probe.
    """

    def __init__(
        self,
        command: list[str],
        file: Path,
        *,
        marker: str,
        device: str = "",
        lost_code: int | None = None,
    ) -> None:
        """Start a probe and wait until it has loaded its file.

        Args:
            command: starts the probe; through ssh on a device.
            marker: what its answers begin with.
            device: what errors call the device; empty for this machine.
            lost_code: the exit code by which `command` says that the device cannot be reached.

        Raises:
            StepFailed: the file cannot be executed there, or the probe does not answer.
            DeviceLost: the connection broke.
        """
        self._file, self._device, self._lost_code = file, device, lost_code
        self._marker, self._slowest_ms = marker, 0.0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._lines = LinePipe(self._process)
        self.ready = self._ready({})

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` executions."""
        answer = self._ask(
            {"run": count}, expected=f"the times of {count} executions", executions=count
        )
        times_ms = [float(time_ms) for time_ms in answer["times_ms"]]
        self._slowest_ms = max([self._slowest_ms, *times_ms])
        return times_ms

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The answer of the file on the device, float32 (classes,).

        Args:
            image: float32, (height, width, 3), as the file takes it.
        """
        pixels = base64.b64encode(np.ascontiguousarray(image, "<f4").tobytes()).decode()
        answer = self._ask({"image": pixels}, expected="the answer to an image", executions=1)
        return np.array(answer["answer"], "float32")

    def state(self) -> MachineState:
        """What affects times on the machine of the probe, now."""
        answer = self._ask({"state": True}, expected="the state of the machine")
        return from_json(MachineState, answer["state"])

    def profile(self, count: int) -> list[OperatorTime]:
        """How long each type of operator takes, over `count` executions; the longest first."""
        answer = self._ask(
            {"profile": count},
            expected="the times of the operators",
            seconds=LOADING_SECONDS,
            executions=count,
        )
        return [from_json(OperatorTime, operator) for operator in answer["operators"]]

    def reopen(self) -> None:
        """Load the file again in a new process, whose first message becomes `ready`."""
        self.ready = self._ready({"reopen": True})

    def close(self) -> Finished:
        """End the probe; returns its last message."""
        last = from_json(Finished, self._ask({"quit": True}, expected="its peak memory"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=ANSWER_SECONDS)
        self.kill()
        return last

    def kill(self) -> None:
        """End the probe whatever it does."""
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _ready(self, request: Message) -> Ready:
        answer = self._ask(request, expected=LOADED, seconds=LOADING_SECONDS)
        ready = from_json(Ready, answer)
        self._slowest_ms = max(self._slowest_ms, ready.first_ms)
        return ready

    def _ask(
        self,
        request: Message,
        *,
        expected: str,
        seconds: float | None = None,
        executions: int = 0,
    ) -> Message:
        """Send a request, unless it is empty, and return the answer.

        Args:
            expected: what the answer says, for the error if there is none.
            seconds: how long the answer may take, besides `executions`; ANSWER_SECONDS by default.
            executions: how many executions the request asks for.
        """
        data = f"{json.dumps(request)}\n".encode() if request else b""
        limit = time_limit(
            ANSWER_SECONDS if seconds is None else seconds,
            executions=executions,
            slowest_ms=self._slowest_ms,
            num_bytes=len(data),
        )
        other_lines: deque[str] = deque(maxlen=3)
        try:
            for line in self._lines.exchange(data, limit):
                message = self._message(line)
                if message is None:
                    other_lines.append(repr(line.strip()[:200]))
                elif "error" in message:
                    raise self._failure(message["error"])
                else:
                    return message
        except TimeoutError:
            got = "; ".join(other_lines) or "nothing"
            raise self._silence(limit, expected=expected, got=got) from None
        raise self._failure("it ended early")

    def _message(self, line: str) -> Message | None:
        """The message on a line; None for what is not from the probe, such as a login banner."""
        if not line.startswith(f"{self._marker} "):
            return None
        try:
            return dict(json.loads(line.removeprefix(self._marker)))
        except ValueError:
            return None

    def _failure(self, reason: str) -> StepFailed:
        """The error for a probe that ends, or says that it cannot go on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)  # it is about to end, and its exit code says why
        code, errors = self._ended()
        if code == self._lost_code:
            return DeviceLost(f"the connection to {self._device} broke. {errors}")
        return StepFailed(
            f"the probe of {self._name()} failed: {reason} (exit code {code}). {errors}\n"
            "Check the file with: evaluate predict FILE PHOTO"
        )

    def _silence(self, seconds: float, *, expected: str, got: str) -> StepFailed:
        """The error for a probe that did not answer in time."""
        _, errors = self._ended()
        command = "evaluate devices TARGET" if self._device else "evaluate predict FILE PHOTO"
        return StepFailed(
            f"the probe of {self._name()} did not answer within {seconds:.0f} s. Expected "
            f"{expected}; got {got}. {errors}\n"
            f"It hangs, or its machine is too busy. Check with: {command}"
        )

    def _name(self) -> str:
        return f"{self._file} on {self._device}" if self._device else str(self._file)

    def _ended(self) -> tuple[int, str]:
        """End the process; returns its exit code and the last of its error output."""
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        errors = "\n".join(dict.fromkeys(lines))[-400:]  # every round repeats some of them
        self._release()
        return code, errors


class LinePipe:
    """Lines to and from a process, with a limit on how long each exchange may take."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        self._open_line = b""

    def exchange(self, data: bytes, seconds: float) -> Iterator[str]:
        """Send data, and yield lines as they arrive, until the process closes its output.

        Raises:
            TimeoutError: the seconds are over.
        """
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if data:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            while (seconds_left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(seconds_left):
                    if key.fd == self._stdin:
                        data = self._send_part(data)
                        if not data:
                            selector.unregister(self._stdin)
                    elif part := os.read(self._stdout, 1 << 16):
                        *lines, self._open_line = (self._open_line + part).split(b"\n")
                        yield from (line.decode(errors="replace") for line in lines)
                    else:
                        return
        raise TimeoutError

    def _send_part(self, data: bytes) -> bytes:
        """Send what the pipe takes now; returns the rest."""
        try:
            return data[os.write(self._stdin, data) :]
        except BrokenPipeError:
            return b""  # the process is gone, and the end of its output says so
