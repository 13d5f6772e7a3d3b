"""The service, as a process and inside this one."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.serve.app import make_app
from eval.serve.served import named_files
from eval.serve.server import LOOPBACK, address, listen, make_server
from eval.serve.uploads import Limits
from running_service import Service, start


@pytest.fixture(scope="module")
def service(tflite_files: dict[str, Path], onnx_file: Path) -> Iterator[Service]:
    running = start(tflite_files["int8"], tflite_files["float32"], onnx_file, "--workers", 2)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture
def serve_here(onnx_file: Path) -> Iterator[Callable[..., str]]:
    """Serves the small file from a thread of this process, within other limits."""
    stops = []

    def run(**limits: float) -> str:
        accepted = Limits(**limits)  # type: ignore[arg-type]
        app = make_app(
            named_files([onnx_file]), num_workers=2, hosts=list(LOOPBACK), limits=accepted
        )
        listener = listen("127.0.0.1", 0)
        url, server = address(listener), make_server(app, accepted)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        stops.append((server, thread))
        return url

    yield run
    for server, thread in stops:
        server.should_exit = True
        thread.join(30)
