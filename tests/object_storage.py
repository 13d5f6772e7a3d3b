"""A storage that speaks S3 on this machine: moto's server, as fixtures."""

import itertools
from collections.abc import Callable, Iterator

import pytest

Put = Callable[[dict[str, bytes]], str]
"""Stores files by their names in a new bucket; returns its URL."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of the server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def new_clients() -> Iterator[Callable[[], None]]:
    """Call it after variables changed: clients that exist have read them already."""
    import s3fs

    yield s3fs.S3FileSystem.clear_instance_cache
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def put_files(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Stores files in a new bucket, where this process finds it."""
    import s3fs

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)

    def put(files: dict[str, bytes]) -> str:
        bucket = f"bucket-{next(_numbers)}"
        system = s3fs.S3FileSystem()
        system.mkdir(bucket)
        system.pipe({f"{bucket}/{name}": content for name, content in files.items()})
        return f"s3://{bucket}"

    return put
