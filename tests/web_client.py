"""A small HTTP client, for tests of the service."""

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "a-line-between-parts"


@dataclass(frozen=True)
class Response:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.content)


def request(
    url: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Response:
    """One request over a connection of its own. The path is sent as it is.

    Args:
        context: whom to trust, for https.
    """
    address = urlsplit(url).netloc
    connection = (
        http.client.HTTPSConnection(address, timeout=60, context=context)
        if context
        else http.client.HTTPConnection(address, timeout=60)
    )
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, names, response.read())
    finally:
        connection.close()


def form(
    photo: bytes, *, field: str = "image", name: str = "photo.png", kind: str = "image/png"
) -> bytes:
    """A photo as the body of a form."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def post_photo(url: str, photo: bytes, query: str = "", **parts: str) -> Response:
    """Ask the service about a photo."""
    return request(url, f"/predict{query}", "POST", form(photo, **parts), FORM)
