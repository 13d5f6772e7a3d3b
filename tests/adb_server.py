"""A server for the real `adb` client. Its one phone is a folder of this machine.

It implements what shell commands and pushes need of adb's protocol: smart sockets, the shell
protocol (version 2) and the sync protocol (version 1).
"""

import contextlib
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Self

VERSION = 41  # of adb 1.0.41; with another version the client kills the server
WRITABLE = "/data/local/tmp"
STDOUT, STDERR, EXIT = 1, 2, 3


class AdbServer:
    """A running server.

    Attributes:
        gone: answer as if the phone was unplugged.
        port: where it listens.
    """

    def __init__(self, storage: Path, programs: Path, serial: str = "emulator-5554") -> None:
        self._storage, self._programs, self._serial = storage, programs, serial
        self.gone = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while True:
                request = receive(connection, int(receive(connection, 4), 16)).decode()
                if self._answer(connection, request):
                    return

    def _answer(self, connection: socket.socket, request: str) -> bool:
        """Answer one request; returns whether the connection ends with it."""
        kind, _, rest = request.partition(":")
        if request == "host:version":
            send(connection, b"OKAY" + with_length(f"{VERSION:04x}"))
            return True
        if self.gone:
            send(connection, b"FAIL" + with_length(f"device '{self._serial}' not found"))
            return True
        if request.endswith("features"):
            send(connection, b"OKAY" + with_length("shell_v2,cmd"))
            return True
        if request.endswith("get-state"):
            send(connection, b"OKAY" + with_length("device"))
            return True
        if "transport" in request or "tport" in request:
            number = struct.pack("<Q", 1) if "tport" in request else b""
            send(connection, b"OKAY" + number)
            return False  # the next request is for the phone
        send(connection, b"OKAY")
        if kind.startswith("shell"):
            self._shell(connection, rest)
        elif kind == "sync":
            self._sync(connection)
        return True

    def _shell(self, connection: socket.socket, command: str) -> None:
        path = f"{self._programs}:{os.environ['PATH']}"
        result = subprocess.run(
            ["sh", "-c", command.replace(WRITABLE, str(self._storage))],
            capture_output=True,
            env={**os.environ, "PATH": path},
        )
        exit_code = bytes([result.returncode & 255])
        for number, data in ((STDOUT, result.stdout), (STDERR, result.stderr), (EXIT, exit_code)):
            send(connection, struct.pack("<BI", number, len(data)) + data)
        # Read what is left before closing: otherwise the client may lose what was sent.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    def _sync(self, connection: socket.socket) -> None:
        while True:
            name, size = struct.unpack("<4sI", receive(connection, 8))
            if name == b"QUIT":
                return
            path = receive(connection, size).decode()
            local = Path(path.partition(",")[0].replace(WRITABLE, str(self._storage)))
            if name == b"STAT":
                send(connection, b"STAT" + struct.pack("<III", 0, 0, 0))
            elif name == b"SEND":
                local.write_bytes(self._receive_file(connection))
                send(connection, b"OKAY" + struct.pack("<I", 0))

    def _receive_file(self, connection: socket.socket) -> bytes:
        content = b""
        while True:
            name, size = struct.unpack("<4sI", receive(connection, 8))
            if name == b"DONE":
                return content
            content += receive(connection, size)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)


def with_length(text: str) -> bytes:
    return f"{len(text):04x}{text}".encode()
