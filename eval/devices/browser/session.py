"""A session with one file in a browser: the page does there what a probe does on a board."""

import base64
import itertools
from typing import Protocol

import numpy as np

from configs.artifacts import ending
from configs.errors import StepFailed
from eval.devices.browser.host_file import HostFile
from eval.devices.probe import Finished, MachineState, OperatorTime, Ready
from eval.devices.session import ANSWER_SECONDS, LOADING_SECONDS, Message, time_limit
from eval.serve.runtimes import PACKAGES

RUNTIMES = {".tflite": ("litert.js", "@litertjs/core"), ".onnx": ("onnxruntime-web",) * 2}
"""By the ending of a file: what its runtime is called, and its package."""
VERSIONS = {package.name: package.version for package in PACKAGES}

_numbers = itertools.count(1)


class Conversation(Protocol):
    """The page that a session talks to."""

    def state(self) -> MachineState:
        """What the browser says of itself.

        Raises:
            DeviceLost: there is no page.
        """

    def ask(self, request: Message, seconds: float) -> Message:
        """The answer of the page to a request.

        Raises:
            DeviceLost: the page went away.
            StepFailed: it did not answer in time.
        """

    def tell(self, request: Message) -> None:
        """Send a request and wait for no answer."""


class BrowserSession:
    """One file in a worker of the page, a thread of its own.

    Attributes:
        ready: as in ProbeSession.
    """

    def __init__(
        self, page: Conversation, file: HostFile, number: int, *, num_threads: int, webgpu: bool
    ) -> None:
        """Load the file, and compare its answers with those of this machine.

        Args:
            number: by which the page loads the file from the server.

        Raises:
            StepFailed: the browser cannot run it, or it answers differently there.
            DeviceLost: the page went away.
        """
        self._page, self._file, self._session = page, file, next(_numbers)
        self._slowest_ms = 0.0
        self._opening = {
            "open": {
                "file": number,
                "name": file.file.name,
                "format": ending(file.file)[1:],
                "shape": file.shape,
                "dtype": file.dtype,
                "num_threads": num_threads,
                "webgpu": webgpu,
            }
        }
        self._backend = "webgpu" if webgpu else "wasm"
        self.ready = self._open()
        try:
            images = file.examples()
            file.compare(images, np.stack([self.predict(image) for image in images]))
        except BaseException:
            self.kill()
            raise

    def run(self, count: int) -> list[float]:
        """Milliseconds of each of `count` executions.

        Where the clock of the browser is coarse, each is the mean of a few executions.
        """
        answer = self._ask({"run": count}, executions=count)
        times_ms = self._floats(answer.get("times_ms"), "times_ms")
        if len(times_ms) != count or min(times_ms) <= 0:
            raise self._nonsense(f"{count} times above 0", times_ms)
        self._slowest_ms = max(self._slowest_ms, *times_ms)
        return times_ms

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The answer of the file in the browser, float32 (classes,).

        Args:
            image: float32, (height, width, channels), as the file takes it.
        """
        pixels = base64.b64encode(self._file.tensor(image)).decode()
        answer = self._ask({"image": pixels}, executions=1)
        return self._file.answer(self._floats(answer.get("answer"), "answer"))

    def state(self) -> MachineState:
        """What the browser is. How busy or hot its machine is, it does not say."""
        return self._page.state()

    def profile(self, count: int) -> list[OperatorTime]:
        raise StepFailed(
            f"{self._file.file}: a browser does not report the times of operators. Measure them "
            "with --device local."
        )

    def reopen(self) -> None:
        """Load the file again in a new worker, which sets `ready` anew."""
        self.ready = self._open()

    def close(self) -> Finished:
        """End the worker. How much memory it took, a browser does not say."""
        state = self.state()
        self._ask({"close": True})
        return Finished(None, state)

    def kill(self) -> None:
        """End the worker whatever it does."""
        self._page.tell({"session": self._session, "close": True})

    def _open(self) -> Ready:
        answer = self._ask(self._opening, seconds=LOADING_SECONDS)
        keys = ("load_ms", "first_ms", "num_threads")
        values = self._floats([answer.get(key) for key in keys], " and ".join(keys))
        load_ms, first_ms, num_threads = values
        self._slowest_ms = max(self._slowest_ms, first_ms)
        name, package = RUNTIMES[ending(self._file.file)]
        return Ready(
            load_ms=load_ms,
            first_ms=first_ms,
            runtime=name,
            runtime_version=f"{VERSIONS[package]} {self._backend}",
            batch=self._file.batch,
            state=self.state(),
            num_threads=int(num_threads),
        )

    def _ask(
        self, request: Message, *, seconds: float = ANSWER_SECONDS, executions: int = 0
    ) -> Message:
        limit = time_limit(
            seconds,
            executions=executions,
            slowest_ms=self._slowest_ms,
            num_bytes=len(str(request)),
        )
        answer = self._page.ask({"session": self._session, **request}, limit)
        if "error" in answer:
            raise StepFailed(
                f"{self._file.file} cannot be executed in the browser: {str(answer['error'])[:500]}"
            )
        return answer

    def _floats(self, values: object, what: str) -> list[float]:
        """Numbers of an answer. It comes from a page, so it may be anything."""
        try:
            numbers = np.array(values, "float64")
        except (TypeError, ValueError):
            raise self._nonsense(f"numbers for {what}", values) from None
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            raise self._nonsense(f"numbers for {what}", values)
        return [float(number) for number in numbers]

    def _nonsense(self, expected: str, got: object) -> StepFailed:
        return StepFailed(
            f"the page answered for {self._file.file} with {str(got)[:200]}; expected {expected}. "
            "Load the page again and start over."
        )
