"""`DEVICES`: where a probe runs."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import StepFailed
from configs.registry import Registry

DEVICES = Registry("device")

PROBE = Path(__file__).with_name("probe.py")


class ProbeSession:
    """One probe at work on one file, in a process of its own, until closed.

    A process for each file, so that load time and peak memory are that file's alone.

    Attributes:
        ready: what the probe said when the file was loaded.
    """

    def __init__(self, command: list[str], file: Path) -> None:
        self._file = file
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

    def state(self) -> dict[str, Any]:
        """What moves times over there, as far as it is known: `eval.probe.machine_state`."""
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
        line = self._process.stdout.readline()
        if not line:
            self._fail("it ended early")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            self._fail(message["error"])
        return message

    def _fail(self, reason: str) -> None:
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace").strip()[-400:]
        self._release()
        raise StepFailed(
            f"the probe of {self._file} failed: {reason} (exit code {code}). {tail}\n"
            "Check the file with: evaluate predict FILE PHOTO"
        )


Device = Callable[..., ProbeSession]
"""(file, *, num_threads, options of the device) -> an open probe."""


@DEVICES.add
def local(file: Path, *, num_threads: int, cores: list[int] | None = None) -> ProbeSession:
    """This machine, with the runtimes of this Python.

    Args:
        cores: those that a file may run on, by the numbers the system gives them; all where None.
    """
    # -P: the probe's folder holds a statistics.py, which must not hide Python's own.
    command = [sys.executable, "-P", str(PROBE), str(file), "--num-threads", str(num_threads)]
    pinned = ["--cores", *map(str, cores)] if cores else []
    return ProbeSession([*command, *pinned], file)
