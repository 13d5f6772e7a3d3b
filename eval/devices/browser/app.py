"""What a page in a browser may ask this machine for. Every address begins with a token."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from eval.devices.browser.link import Busy, Link, PageFacts, PageGone
from eval.devices.session import Message
from eval.serve.assets import PageHeaders, page_router, read_pages
from eval.serve.uploads import Limits, UploadGate

LIMITS = Limits(max_bytes=4 << 20, max_connections=64, stop_seconds=2)
"""The longest answer holds the times of one request: some thousand numbers."""
SHARED = ("page.css", "runtimes.js")
"""Files of the page of `evaluate serve` that this page uses, too."""


class TokenGate:
    """Answers only requests whose path begins with the token, which it takes off the path."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            parts = scope["path"].split("/", 2)  # of OPTIONS *, the path has no slash
            if len(parts) < 3 or not secrets.compare_digest(parts[1].encode(), self._token):
                response = PlainTextResponse("Nothing is here. Use the whole address.", 404)
                await response(scope, receive, send)
                return
            scope = {**scope, "path": f"/{parts[2]}"}
        await self._app(scope, receive, send)


def make_app(link: Link, files: Mapping[int, Path], token: str) -> ASGIApp:
    """The application for an ASGI server.

    Args:
        files: the model files that a page may load, by numbers. More may be added while it runs.
        token: what every path begins with. It is drawn for one command and known to nobody else.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pages = {name: read_pages("eval.serve")[name] for name in SHARED}
    pages |= read_pages("eval.devices.browser")
    app.include_router(page_router(pages, is_kept=True))
    _add_conversation(app, link)

    @app.get("/files/{number}")
    async def model_file(number: int) -> Response:
        if number not in files:
            raise HTTPException(404, "no such file is measured.")
        return FileResponse(files[number], media_type="application/octet-stream")

    return TokenGate(PageHeaders(UploadGate(app, LIMITS)), token)


def _add_conversation(app: FastAPI, link: Link) -> None:
    @app.post("/hello")
    async def hello(facts: PageFacts) -> None:
        """A page says what its browser is."""
        link.greet(facts)

    @app.get("/requests")
    async def requests(page: str, after: int = 0) -> Message:
        """What the page shall do next; waits until there is something."""
        new_requests = await link.requests(page, after)
        return {"requests": new_requests, "is_over": link.is_over}

    @app.post("/answers")
    async def answers(
        page: str, number: Annotated[int, Body()], answer: Annotated[Message, Body()]
    ) -> None:
        """What came of a request."""
        link.answer(page, number, answer)

    @app.post("/bye")
    async def bye(page: str) -> None:
        """A page says that it is closed."""
        link.leave(page)

    @app.exception_handler(PageGone)
    async def gone(_: Request, error: PageGone) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 410)

    @app.exception_handler(Busy)
    async def busy(_: Request, __: Busy) -> JSONResponse:
        return JSONResponse({"detail": "another page is measured at this address."}, 409)
