"""The server: its socket, its time limits, and how it stops."""

import asyncio
import errno
import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from configs.errors import UserError
from eval.serve.uploads import Limits

log = logging.getLogger("potstill")

LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on; port 0 takes any free one.

    Raises:
        UserError: the address is not one of this machine, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):  # the latter for a name of more than 63 characters
        raise UserError(
            f"--host {host} is no address. Expected 127.0.0.1, or 0.0.0.0 for all networks."
        ) from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken. Choose another: --port {port + 1}, or --port 0 for any."
    if error.errno == errno.EACCES:
        return f"port {port} needs the rights of an administrator. Choose another: --port 8000."
    return f"cannot listen on {host}, port {port}: {error.strerror}. Expected 127.0.0.1 or 0.0.0.0."


def address(listener: socket.socket, *, https: bool = False) -> str:
    """The address of a listening socket, for a browser."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if https else 'http'}://{name}:{port}/"


def reachable_at(listener: socket.socket) -> list[str]:
    """The addresses of this machine that lead to a listening socket."""
    host = str(listener.getsockname()[0])
    if host not in ("0.0.0.0", "::"):
        return [host]
    network = network_address()
    return ["127.0.0.1", *([network] if network else [])]


def network_address() -> str | None:
    """The address by which other machines of the network reach this one; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chooser:
        try:
            # Nothing is sent: the system only chooses the address that it would send from. The
            # destination is one of those that are reserved for documentation (RFC 5737).
            chooser.connect(("192.0.2.1", 9))
        except OSError:
            return None
        host = str(chooser.getsockname()[0])
    return None if host.startswith(("0.", "127.")) else host


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return str(listener.getsockname()[0]).startswith(("127.", "::1"))


def default_workers() -> int:
    """One for each core, eight at most."""
    return min(os.cpu_count() or 1, 8)


def make_server(
    app: ASGIApp, limits: Limits | None = None, certificate: bytes | None = None
) -> uvicorn.Server:
    """A server that answers until SIGINT or SIGTERM. It finishes the requests in progress first.

    Args:
        certificate: with its private key, as PEM; it makes the server speak https.
    """
    accepted = limits or Limits()
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    # It warns of every damaged form, and strangers would fill the terminal or the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=timed_protocol(accepted.header_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=accepted.max_connections,
        timeout_graceful_shutdown=accepted.stop_seconds,
    )
    if certificate is not None:
        with tempfile.TemporaryDirectory() as folder:  # nobody else may read it
            path = Path(folder) / "certificate.pem"
            path.write_bytes(certificate)
            config.ssl_certfile = path
            config.load()
    return _Server(config)


def stop_on_signals(server: uvicorn.Server) -> None:
    """From now on SIGINT and SIGTERM stop the server, even before it runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    signal.set_wakeup_fd(-1)  # nobody else limits how long the server may take to stop


class _Server(uvicorn.Server):
    """Returns after a signal, where uvicorn would raise the signal again."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # a second signal waits for nobody, and what it breaks off is no error
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
            self.force_exit = True
        self.should_exit = True


def timed_protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """HTTP of uvicorn, which closes a connection whose next header does not come in time."""

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_watching()
            elif self._timer is None:
                self._timer = self.loop.call_later(header_seconds, self._close)

        def _stop_watching(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self.transport.close()

    return TimedProtocol
