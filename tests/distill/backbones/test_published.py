"""Published weights: found in Keras' folder, or downloaded there from a server, once and whole."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from configs.errors import UserError
from distill.backbones.applications import FAMILIES
from distill.backbones.weights.published import Published, catalogue, published_file

CONTENT = bytes(range(256)) * 10_000
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server on this machine: /whole.h5, /cut.h5, and nothing else."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path not in ("/whole.h5", "/cut.h5"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/whole.h5" else CONTENT[:1000])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", requests
        httpd.shutdown()
        thread.join()


def fetch(url, checksum):
    return published_file(
        Published("weights.h5", url, checksum), of="vgg16", instead="choose weights: null"
    )


@pytest.mark.parametrize("checksum", [MD5, SHA256, SHA256[:8], None])
def test_a_missing_file_is_downloaded_once(server, keras_models, checksum):
    url, requests = server
    path = fetch(f"{url}/whole.h5", checksum)
    assert path == keras_models / "weights.h5"
    assert path.read_bytes() == CONTENT
    assert fetch(f"{url}/whole.h5", checksum) == path
    assert requests == ["/whole.h5"]


@pytest.mark.parametrize(
    ("name", "checksum", "reason"),
    [
        ("whole.h5", MD5[::-1], f"MD5 of what came is {MD5}"),
        ("whole.h5", "0" * 8, "SHA-256 of what came is"),
        ("cut.h5", None, "1000 of 2560000 bytes"),
        ("cut.h5", MD5, "1000 of 2560000 bytes"),
        ("missing.h5", MD5, "404"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing_behind(
    server, keras_models, name, checksum, reason
):
    url, _ = server
    with pytest.raises(UserError) as error:
        fetch(f"{url}/{name}", checksum)
    message = str(error.value)
    assert "weights of vgg16 cannot be downloaded" in message
    assert reason in message
    assert f"{url}/{name}" in message
    assert str(keras_models / "weights.h5") in message
    assert list(keras_models.iterdir()) == []


def test_another_file_in_its_place_is_kept_and_named(server, keras_models):
    url, requests = server
    path = keras_models / "weights.h5"
    path.write_bytes(b"my own")
    with pytest.raises(UserError, match="not the published file: its SHA-256 is"):
        fetch(f"{url}/whole.h5", SHA256)
    assert path.read_bytes() == b"my own"
    assert requests == []


def test_the_addresses_are_those_of_keras(monkeypatch):
    """Keras asks for the same file, under the same checksum, at the same address."""
    import keras
    from keras.src.utils import file_utils

    request = {}

    class Asked(Exception):
        pass

    def get_file(fname, origin, cache_subdir, file_hash=None):
        request.update(file=fname, url=origin, checksum=file_hash)
        raise Asked

    monkeypatch.setattr(file_utils, "get_file", get_file)
    for name in ("mobilenet_v3_small", "vgg19", "resnet50_v2", "xception", "convnext_tiny"):
        row = next(rows[name] for rows in FAMILIES.values() if name in rows)
        with pytest.raises(Asked):
            getattr(keras.applications, row.constructor)(include_top=False, weights="imagenet")
        assert catalogue()[name]["imagenet"]["1.0"] == request
