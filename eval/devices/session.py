"""One probe at work on one file, here or on a device: requests and answers over a pipe."""

import base64
import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import StepFailed


class DeviceLost(StepFailed):
    """A device went away in the middle of something; it may come back."""


def probe_words(
    file: str, *, num_threads: int, cores: list[int] | None, openvino: bool
) -> list[str]:
    """What the probe is told on its command line."""
    pinned = ["--cores", *map(str, cores)] if cores else []
    instead = ["--openvino"] if openvino else []
    return [file, "--num-threads", str(num_threads), *pinned, *instead]


class ProbeSession:
    """One probe at work on one file, in a process of its own, until closed.

    A process for each file, so that load time and peak memory are that file's alone.

    Attributes:
        ready: what the probe said when the file was loaded.
    """

    def __init__(
        self, command: list[str], file: Path, *, device: str = "", lost_code: int | None = None
    ) -> None:
        """Start a probe and wait until it has loaded its file.

        Args:
            command: what runs it, here; through ssh or adb for a device.
            lost_code: the exit code by which `command` says that `device` cannot be reached.

        Raises:
            StepFailed: the file cannot be run there.
            DeviceLost: the connection broke.
        """
        self._file, self._device, self._lost_code = file, device, lost_code
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self.ready = self._answer()

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` executions."""
        return list(self._ask({"run": count})["times_ms"])

    def predict(self, image: np.ndarray) -> np.ndarray:
        """What the file answers there, float32 (classes,), to one image as it takes them.

        Args:
            image: float32, (height, width, 3).
        """
        pixels = base64.b64encode(np.ascontiguousarray(image, "<f4").tobytes()).decode()
        return np.array(self._ask({"image": pixels})["answer"], "float32")

    def state(self) -> dict[str, Any]:
        """What moves times over there, as far as it is known: `probe.machine_state`."""
        return dict(self._ask({"state": True})["state"])

    def profile(self, count: int) -> list[dict[str, Any]]:
        """What its types of operators take of an execution, from `count`; the longest first."""
        return list(self._ask({"profile": count})["operators"])

    def reopen(self) -> None:
        """Load the file again in a new process; `ready` is what that one said."""
        self.ready = self._ask({"reopen": True})

    def close(self) -> dict[str, Any]:
        """End the probe; returns its last word, with peak_rss_mib and state."""
        last = self._ask({"quit": True})
        self._process.wait(timeout=60)
        self._release()
        return last

    def kill(self) -> None:
        """End the probe whatever it does."""
        self._process.kill()
        self._process.wait()
        self._release()

    def _release(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            # A request that never reached a dead probe is written again on closing.
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except (BrokenPipeError, ValueError):
            self._fail("it ended early")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # not what a login shell says first
                message: dict[str, Any] = json.loads(line)
                if "error" in message:
                    self._fail(message["error"])
                return message
        return self._fail("it ended early")

    def _fail(self, reason: str) -> Any:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)  # for its own exit code; it is ending already
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace").strip()[-400:]
        self._release()
        if code == self._lost_code:
            raise DeviceLost(f"the connection to {self._device} broke. {tail}")
        there = f" on {self._device}" if self._device else ""
        raise StepFailed(
            f"the probe of {self._file}{there} failed: {reason} (exit code {code}). {tail}\n"
            "Check the file with: evaluate predict FILE PHOTO"
        )
