"""The server of a page: it runs in a thread of its own."""

import asyncio
import secrets
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from eval.devices.browser.address import network_address
from eval.devices.browser.app import LIMITS, make_app
from eval.devices.browser.certificate import Certificate, self_signed
from eval.devices.browser.link import Link
from eval.devices.session import Message
from eval.serve.server import listen, make_server

HERE = "127.0.0.1"

Value = TypeVar("Value")


class PageServer:
    """Serves the page of a measurement while its context is open.

    Attributes:
        link: the conversation with the page; use it through `call`.
        files: the model files that a page may load, by numbers.
        url: the address on this machine.
        network_url: the address for other machines; None where they cannot reach it.
        certificate: None over plain http.
    """

    def __init__(self, *, port: int, is_shared: bool, https: bool) -> None:
        """Prepare to serve.

        Args:
            port: 0 for any that is free.
            is_shared: whether other machines may reach it.
        """
        self._port, self._is_shared, self._https = port, is_shared, https
        self.link, self.files = Link(), dict[int, Path]()
        self.certificate: Certificate | None = None

    def __enter__(self) -> Self:
        network = network_address() if self._is_shared else None
        listener = listen("0.0.0.0" if network else HERE, self._port)
        token = secrets.token_urlsafe(16)
        with tempfile.TemporaryDirectory() as folder:
            if self._https:
                self.certificate = self_signed(
                    Path(folder), [HERE, *([network] if network else [])]
                )
            server = make_server(
                make_app(self.link, self.files, token),
                LIMITS,
                self.certificate.path if self.certificate else None,
            )
            server.config.load()  # reads the certificate
        scheme, port = "https" if self._https else "http", listener.getsockname()[1]
        self.url = f"{scheme}://{HERE}:{port}/{token}/"
        self.network_url = f"{scheme}://{network}:{port}/{token}/" if network else None
        self._server, self._loop = server, asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(server.serve([listener])), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.link.end)
        self._server.should_exit = True
        self._thread.join()
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, Value]) -> Value:
        """The result of a coroutine, such as one of `link`, in the loop of the server."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def tell(self, request: Message) -> None:
        """Send a request to the page and wait for no answer."""
        self._loop.call_soon_threadsafe(self.link.tell, request)
