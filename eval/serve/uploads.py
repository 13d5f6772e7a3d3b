"""What an upload may cost: its bytes, its pixels and its time, limited before it is decoded."""

import asyncio
import contextlib
from dataclasses import dataclass
from io import BytesIO

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.photo_files import TooManyPixels, UnreadablePhoto, photo_header

FORMATS = frozenset({
    "JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000",
})  # fmt: skip
"""Kinds of photos that are decoded here. Pillow knows others: it runs a program for PostScript."""


@dataclass(frozen=True)
class Limits:
    """What the service accepts.

    Attributes:
        max_bytes: of one request.
        max_pixels: of a photo, as its header says.
        max_held_bytes: of all requests that are read or answered at the same time.
        upload_seconds: from the header of a request to the end of its body.
        header_seconds: from the start of a connection or request to the end of its header.
        stop_seconds: for the requests in progress when the service stops.
        max_connections: at the same time; further ones get a 503.
    """

    max_bytes: int = 20 << 20
    max_pixels: int = 64_000_000
    max_held_bytes: int = 256 << 20
    upload_seconds: float = 30
    header_seconds: float = 10
    stop_seconds: int = 10
    max_connections: int = 256


class Refused(Exception):
    """An upload that is not answered.

    Attributes:
        status: of the HTTP response, 4xx or 503.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_photo(content: bytes, limits: Limits) -> None:
    """Refuse what is no photo, or has too many pixels, by its header alone.

    Raises:
        Refused: with status 413 (pixels), 415 (no photo) or 422 (a damaged one).
    """
    if not content:
        raise Refused(422, "the photo is empty.")
    try:
        kind, num_pixels = photo_header(BytesIO(content))
    except UnreadablePhoto as error:
        status = 413 if isinstance(error, TooManyPixels) else 415
        raise Refused(status, f"this is no photo that can be read: {error}.") from None
    if kind not in FORMATS:
        raise Refused(415, f"photos of the kind {kind} are not read. Send a JPEG or PNG.")
    if num_pixels > limits.max_pixels:
        raise Refused(
            413,
            f"the photo has {num_pixels / 1e6:,.0f} megapixels, and at most "
            f"{limits.max_pixels / 1e6:,.0f} are read. Send a smaller one.",
        )


class UploadGate:
    """Reads the body of each request within the limits, and only then calls the application."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            if await self._read(body, headers, receive):
                await self._app(scope, _again(bytes(body), receive), send)
        except Refused as refusal:
            if refusal.status != 408 and "expect" not in headers:
                await self._drain(receive)
            response = JSONResponse(
                {"detail": str(refusal)}, refusal.status, headers={"connection": "close"}
            )
            await response(scope, receive, send)
        finally:
            self._held_bytes -= len(body)

    async def _read(self, body: bytearray, headers: Headers, receive: Receive) -> bool:
        """Fill in the body; False if the sender is gone."""
        limits = self._limits
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limits.max_bytes:
            raise _too_large(limits)
        try:
            async with asyncio.timeout(limits.upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return False
                    part = message.get("body", b"")
                    if len(body) + len(part) > limits.max_bytes:
                        raise _too_large(limits)
                    if self._held_bytes + len(part) > limits.max_held_bytes:
                        raise Refused(503, "too many photos at the same time. Send it again later.")
                    body += part
                    self._held_bytes += len(part)
                    if not message.get("more_body"):
                        return True
        except TimeoutError:
            raise Refused(
                408, f"the upload took more than {limits.upload_seconds:g} seconds."
            ) from None

    async def _drain(self, receive: Receive) -> None:
        """Take the rest of a refused upload from the line and forget it.

        Otherwise its sender would often see a broken connection instead of the answer.
        """
        num_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.upload_seconds):
                while num_bytes < self._limits.max_held_bytes:
                    message = await receive()
                    num_bytes += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413, f"the upload is too large: at most {limits.max_bytes / (1 << 20):g} MiB are read."
    )


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
