"""What the server of a page answers, and to whom."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import segno

from eval.devices.browser.link import PageGone
from eval.devices.browser.qr_code import qr_code
from eval.devices.browser.server import PageServer
from web_client import request


@pytest.fixture
def server(runtimes_here: None) -> Iterator[PageServer]:
    with PageServer(port=0, is_shared=False, https=False) as running:
        yield running


def token_of(server: PageServer) -> str:
    return urlsplit(server.url).path.strip("/")


@pytest.mark.parametrize(
    "path", ["", "page/measure.js", "requests?page=a", "files/1", "runtimes/x"]
)
def test_nothing_is_answered_without_the_token(
    server: PageServer, onnx_file: Path, path: str
) -> None:
    server.files[1] = onnx_file
    token = token_of(server)
    for start in ("", "/other", f"/{token[:-1]}", f"/{token}x", f"//{token}", f"/x/../{token}"):
        response = request(server.url, f"{start}/{path}")
        assert response.status == 404
        assert response.content == b"Nothing is here. Use the whole address."
    for method in ("hello", "answers?page=a", "bye?page=a"):
        assert request(server.url, f"/{method}", "POST", b"{}").status == 404
    assert server.link.facts is None


@pytest.mark.parametrize("target", ["*", "/", "//"])
def test_a_target_of_another_form_is_nothing(server: PageServer, target: str) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        head = f"OPTIONS {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").readline()
    assert answer.split()[1] == b"404"


def test_two_commands_have_different_tokens(server: PageServer) -> None:
    with PageServer(port=0, is_shared=False, https=False) as other:
        assert token_of(other) != token_of(server)
        assert request(other.url, f"/{token_of(server)}/").status == 404
        assert len(token_of(other)) >= 20


def test_a_page_loads_its_parts_and_the_measured_files_alone(
    server: PageServer, onnx_file: Path
) -> None:
    server.files[1] = onnx_file
    start = f"/{token_of(server)}"
    page = request(server.url, f"{start}/")
    assert b"Measuring this browser" in page.content
    assert page.headers["cross-origin-embedder-policy"] == "require-corp"
    for name in ("measure.js", "worker.js", "runtimes.js", "page.css"):
        assert request(server.url, f"{start}/page/{name}").status == 200
    assert request(server.url, f"{start}/files/1").content == onnx_file.read_bytes()
    for path in ("files/2", "files/..%2f1", "page/page.js", "page/../measure.js", "docs", "files/"):
        assert request(server.url, f"{start}/{path}").status in (404, 422), path


def test_a_second_page_has_to_wait(server: PageServer, make_page: Callable[..., Any]) -> None:
    first, second = make_page(server), make_page(server)
    assert first.greet().status == 200
    assert first.greet().status == 200  # its first answer may have been lost
    assert second.greet().status == 409
    assert second.get(f"requests?page={second.name}").status == 410
    first.post(f"bye?page={first.name}", None)
    assert second.greet().status == 200
    assert first.get(f"requests?page={first.name}").status == 410


def test_a_request_is_sent_until_its_number_is_confirmed(
    server: PageServer, make_page: Callable[..., Any]
) -> None:
    page = make_page(server)
    page.greet()
    answers: list[Any] = []
    work = server.link.ask({"session": 1, "run": 2}, 30)
    asking = threading.Thread(target=lambda: answers.append(server.call(work)))
    asking.start()
    for _ in range(2):  # the first of these answers is lost
        (message,) = page.get(f"requests?page={page.name}&after=0").value["requests"]
        assert message == {"number": 1, "session": 1, "run": 2}
    for _ in range(2):
        body = {"number": 1, "answer": {"times_ms": [1.0, 2.0]}}
        assert page.post(f"answers?page={page.name}", body).status == 200
    asking.join(10)
    assert answers == [{"times_ms": [1.0, 2.0]}]


def test_requests_end_with_the_page(server: PageServer, make_page: Callable[..., Any]) -> None:
    with pytest.raises(PageGone, match="no page is open"):
        server.call(server.link.ask({}, 30))
    make_page(server).greet()
    with pytest.raises(TimeoutError):
        server.call(server.link.ask({}, 0.05))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"number": "x", "answer": {}}', b'{"number": 1, "answer": 2}']
)
def test_bodies_that_are_no_answers_are_refused(
    server: PageServer, make_page: Callable[..., Any], body: bytes
) -> None:
    page = make_page(server)
    page.greet()
    path = f"/{token_of(server)}/answers?page={page.name}"
    headers = {"Content-Type": "application/json"}
    assert request(server.url, path, "POST", body, headers).status == 422
    large = {"number": 1, "answer": {"text": "x" * (5 << 20)}}
    assert page.post(f"answers?page={page.name}", large).status == 413
    assert page.greet().status == 200


def test_https_has_a_certificate_for_this_address(
    runtimes_here: None, make_page: Callable[..., Any]
) -> None:
    with PageServer(port=0, is_shared=False, https=True) as server:
        assert server.certificate is not None
        address = (urlsplit(server.url).hostname, urlsplit(server.url).port)
        pem = ssl.get_server_certificate(address)  # type: ignore[arg-type]
        context = ssl.create_default_context(cadata=pem)
        assert make_page(server, context=context).greet().status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            request(server.url, "/", context=ssl.create_default_context())
        digest = sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
        assert server.certificate.fingerprint.replace(":", "") == digest


def test_the_qr_code_is_dark_on_white_and_complete() -> None:
    url = "http://192.168.1.20:43817/nFoh2B8o3bq0a0pX0rBf1g/"
    cells = [re.findall(r"\033\[(40|107);(30|97)m▄", line) for line in qr_code(url).splitlines()]
    rows = []
    for line in cells:
        rows.append([int(upper == "40") for upper, _ in line])
        rows.append([int(lower == "30") for _, lower in line])
    expected = [list(row) for row in segno.make(url, error="l", micro=False).matrix_iter(border=2)]
    assert rows[: len(expected)] == expected
