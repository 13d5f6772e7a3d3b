"""A browser as a device: whoever opens the address runs the files there."""

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from configs import progress
from configs.errors import StepFailed, UserError
from eval.devices.browser.address import qr_code
from eval.devices.browser.headless import HeadlessChromium, find_chromium
from eval.devices.browser.host_file import HostFile
from eval.devices.browser.link import PageFacts, PageGone
from eval.devices.browser.server import PageServer
from eval.devices.browser.session import BrowserSession
from eval.devices.machine import Machine
from eval.devices.probe import MachineState, machine_state
from eval.devices.session import DeviceLost, Message
from eval.serve.runtimes import installed_runtimes

log = logging.getLogger("potstill")

OPENING_SECONDS = 600.0
"""How long to wait for somebody to open the address."""
STARTING_SECONDS = 60.0
"""How long a browser that is started here may take to open it."""


class Browser:
    """The browser that opens the address, for as long as the context is open.

    Raises:
        StepFailed: nobody opens it, or a file cannot be executed there.
        DeviceLost: the page went away.
        UserError: the runtimes for browsers are not here, or the browser lacks what is asked for.
    """

    formats: tuple[str, ...] = (".tflite", ".onnx")
    reports_means = False

    def __init__(
        self, *, headless: bool, https: bool, webgpu: bool, port: int, program: str
    ) -> None:
        if not installed_runtimes():
            raise UserError(
                "the runtimes that browsers need are not here. Get them once: evaluate runtimes"
            )
        self._headless, self._webgpu = headless, webgpu
        self._program = find_chromium(program) if headless else ""
        self._server = PageServer(port=port, is_shared=not headless, https=https)
        self._chromium: HeadlessChromium | None = None
        self._files: dict[Path, HostFile] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server = stack.enter_context(self._server)
            if self._headless:
                key = server.certificate.key_digest if server.certificate else None
                chromium = HeadlessChromium(self._program, webgpu=self._webgpu, trusted_key=key)
                self._chromium = stack.enter_context(chromium)
                self._chromium.open(server.url)
            else:
                progress.announce(self._invitation())
            self._wait_for_page()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, file: Path, *, num_threads: int) -> BrowserSession:
        """A session that has loaded a file there, and whose answers were compared."""
        if file not in self._files:
            self._files[file] = HostFile(file)
            self._server.files[len(self._files)] = file
        number = list(self._files).index(file) + 1
        return BrowserSession(
            self, self._files[file], number, num_threads=num_threads, webgpu=self._webgpu
        )

    def machine(self) -> Machine:
        return Machine.of_state(self.state())

    def state(self) -> MachineState:
        """What the browser says of itself; of one that was started here, this machine knows more.

        Raises:
            DeviceLost: there is no page.
        """
        facts = self._facts()
        machine = machine_state() if self._headless else MachineState()
        adapter = f", WebGPU on {facts.webgpu}" if self._webgpu else ""
        system = f"{facts.user_agent}{adapter}"
        return replace(machine, num_cores=facts.num_cores, os=system, python=None)

    def is_back(self) -> bool:
        """Whether a page is open there. A browser that was started here is started again."""
        if self._chromium is not None and not self._chromium.is_running:
            self._chromium.open(self._server.url)
        return self._server.call(self._server.link.wait_for_page(1.0))

    def _facts(self) -> PageFacts:
        facts = self._server.link.facts
        if facts is None:
            raise self._lost("no page is open there.")
        return facts

    def ask(self, request: Message, seconds: float) -> Message:
        """The answer of the page to a request; see Conversation."""
        try:
            return self._server.call(self._server.link.ask(request, seconds))
        except PageGone as error:
            raise self._lost(str(error)) from None
        except TimeoutError:
            raise StepFailed(
                f"the page in the browser did not answer within {seconds:.0f} s. It hangs, or its "
                "machine is too busy. Load it again and start over."
            ) from None

    def tell(self, request: Message) -> None:
        """Send a request and wait for no answer."""
        self._server.tell(request)

    def _lost(self, reason: str) -> DeviceLost:
        where = "" if self._headless else f" Open it again: {self._url}"
        return DeviceLost(f"the browser is gone: {reason}{where}")

    @property
    def _url(self) -> str:
        return self._server.network_url or self._server.url

    def _invitation(self) -> str:
        """What whoever started the command reads: where the page is, and what to do with it."""
        lines = [f"Open this address in the browser that is to be measured:\n  {self._url}"]
        if progress.console.is_terminal and not progress.console.no_color:
            lines.append(qr_code(self._url))
        if self._server.network_url:
            lines.append(f"In a browser on this machine: {self._server.url}")
        certificate = self._server.certificate
        if certificate:
            lines.append(
                "The browser warns of the certificate, which this machine signed itself. Go on "
                f"if its SHA-256 is\n  {certificate.fingerprint}"
            )
        return "\n".join(lines)

    def _wait_for_page(self) -> None:
        deadline = time.monotonic() + (STARTING_SECONDS if self._headless else OPENING_SECONDS)
        while not self._server.call(self._server.link.wait_for_page(1.0)):
            has_ended = self._chromium is not None and not self._chromium.is_running
            if has_ended or time.monotonic() > deadline:
                if self._chromium is not None:
                    raise self._chromium.failure()
                raise StepFailed(
                    f"nobody opened {self._url} within {OPENING_SECONDS / 60:.0f} minutes. Run the "
                    "same command again, and open the address that it prints."
                )
        facts = self._facts()
        log.info("measured in %s", facts.user_agent)
        if self._webgpu and facts.webgpu is None:
            raise UserError(
                f"this browser has no WebGPU adapter: {facts.user_agent}. Measure WebAssembly "
                "instead, without webgpu: true."
            )
