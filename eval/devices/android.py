"""An Android phone over the user's own `adb`, driving a `benchmark_model` that the user names."""

import re
import shlex
import subprocess
import uuid
from pathlib import Path

import numpy as np

from configs.artifacts import ending, file_sha256
from configs.errors import StepFailed, UserError
from eval.devices.machine import Machine
from eval.devices.probe import Finished, MachineState, OperatorTime, Ready
from eval.devices.session import DeviceLost

WRITABLE = "/data/local/tmp"
COMMAND_SECONDS = 600
# What adb says when it cannot reach the phone. Its exit code is 1, as for any other failure.
GONE = re.compile(r"device .*(not found|offline|unauthorized)|no devices|device still|closed", re.I)
PROPERTIES = {
    "cpu": "ro.soc.model",
    "os": "ro.build.version.release",
    "model": "ro.product.model",
    "abi": "ro.product.cpu.abi",
}


class Phone:
    """A phone with a folder of its own for as long as the context is open.

    Raises:
        DeviceLost: it cannot be reached.
        StepFailed: a file cannot be executed on it.
    """

    formats: tuple[str, ...] = (".tflite",)
    reports_means = True

    def __init__(self, serial: str, *, benchmark_model: Path, adb: str) -> None:
        self._adb = [adb, *(["-s", serial] if serial else [])]
        self.name = serial or "the phone"
        self._tool = benchmark_model
        self._folder = f"{WRITABLE}/potstill-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> "Phone":
        self.shell("mkdir", self._folder)
        self._program = self.send(self._tool)
        self.shell("chmod", "700", self._program)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_back():
            self.shell("rm", "-rf", self._folder)

    def machine(self) -> Machine:
        return Machine.of_state(self.state())

    def state(self) -> MachineState:
        """What the phone is; how busy or hot it is, is not known."""
        properties = {key: self.shell("getprop", name) for key, name in PROPERTIES.items()}
        return MachineState(
            cpu=f"{properties['model']} {properties['cpu']}".strip() or None,
            os=f"Android {properties['os']} {properties['abi']}",
        )

    def is_back(self) -> bool:
        try:
            return self._run("get-state").stdout.strip() == "device"
        except StepFailed:
            return False

    def open(self, file: Path, *, num_threads: int) -> "BenchmarkSession":
        """A session that times a .tflite file with benchmark_model."""
        return BenchmarkSession(self, self._program, file, self.send(file), num_threads)

    def send(self, file: Path) -> str:
        """The path of a file's copy in the phone's folder, checked by digest."""
        digest = file_sha256(file)
        path = f"{self._folder}/{digest[:16]}{ending(file)}"
        self._run("push", str(file), path)
        if self.shell("sha256sum", path).split()[:1] != [digest]:
            raise StepFailed(
                f"{file} arrived damaged on {self.name}. Check whether its storage is full."
            )
        return path

    def shell(self, *words: str) -> str:
        """The output of a command there."""
        return self._run("shell", shlex.join(words)).stdout.strip()

    def shell_all(self, *words: str) -> str:
        """The same with its error output, where tools log."""
        result = self._run("shell", shlex.join(words))
        return f"{result.stdout}\n{result.stderr}"

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        try:
            result = subprocess.run(
                [*self._adb, *words], capture_output=True, text=True, timeout=COMMAND_SECONDS
            )
        except FileNotFoundError:
            raise UserError(
                f"there is no {self._adb[0]} program here. Install Android's platform tools."
            ) from None
        except subprocess.TimeoutExpired:
            raise DeviceLost(f"{self.name} did not answer within {COMMAND_SECONDS} s.") from None
        output = f"{result.stderr.strip()} {result.stdout.strip()}"[-400:]
        if result.returncode and GONE.search(result.stderr):
            raise DeviceLost(f"{self.name} cannot be reached: {output}\nLook with: adb devices")
        if result.returncode:
            raise StepFailed(
                f"{self.name} failed (exit code {result.returncode}): {output}\n"
                f"The command was: adb {' '.join(words)[:200]}"
            )
        return result


class BenchmarkSession:
    """Executions of one file on a phone; each request starts benchmark_model again.

    That program reports means, not the time of each execution: `run` returns one number.

    Attributes:
        ready: as in ProbeSession.
    """

    def __init__(self, phone: Phone, program: str, file: Path, path: str, num_threads: int) -> None:
        self._phone, self._file = phone, file
        self._words = [program, f"--graph={path}", f"--num_threads={num_threads}"]
        self._peak_mib: float | None = None
        first = self._timings(1)
        self.ready = Ready(
            load_ms=first["Init"] / 1000,
            first_ms=first["First inference"] / 1000,
            runtime="benchmark_model",
            runtime_version="",
            batch=1,
            state=phone.state(),
        )

    def run(self, count: int) -> list[float]:
        """The mean of `count` executions, in milliseconds."""
        return [self._timings(count)["Inference (avg)"] / 1000]

    def predict(self, image: np.ndarray) -> np.ndarray:
        raise UserError(f"{self._phone.name}: benchmark_model reports times, not answers.")

    def profile(self, count: int) -> list[OperatorTime]:
        raise UserError(f"{self._phone.name}: only .onnx files have a profile of their operators.")

    def state(self) -> MachineState:
        """Nothing: how busy or hot the phone is, is not known."""
        return MachineState()

    def reopen(self) -> None:
        """Nothing to do: every request is a new process."""

    def close(self) -> Finished:
        return Finished(self._peak_mib)

    def kill(self) -> None:
        """Nothing to do: no process runs between requests."""

    def _timings(self, count: int) -> dict[str, float]:
        """Microseconds by the names that benchmark_model gives them."""
        # With 0 seconds it executes the file `count` times, whatever that takes.
        limits = ["--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]
        output = self._phone.shell_all(
            *self._words, f"--num_runs={count}", *limits, "--report_peak_memory_footprint=true"
        )
        line = re.search(r"Inference timings in us: (.*)", output)
        timings = dict(re.findall(r"([A-Z][^:,]*): ([\d.e+]+)", line[1])) if line else {}
        if "Inference (avg)" not in timings:
            raise StepFailed(
                f"benchmark_model did not time {self._file} on {self._phone.name}. Its output:\n"
                f"{output[-800:]}"
            )
        memory = re.search(r"peak memory footprint \(MB\)[^:]*: ([\d.]+)", output)
        if memory:
            self._peak_mib = max(self._peak_mib or 0.0, float(memory[1]))
        return {name: float(value) for name, value in timings.items()}
