"""The page of the service: its files, the model files and the runtimes that it loads."""

import mimetypes
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.artifacts import ending
from eval.serve.runtimes import installed_runtimes
from eval.serve.served import ServedFiles

TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
HEADERS = {
    # Nothing is loaded from elsewhere, so the page works offline. WebAssembly has to be allowed.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; connect-src 'self' blob: data:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
    # With these two a browser gives a page its precise clock, and threads.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class PageHeaders:
    """Adds the headers that isolate the page to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def add_page(app: FastAPI, served: ServedFiles) -> None:
    """Serve the page, and by their names alone the files that it loads."""
    pages = {
        item.name: item.read_bytes()
        for item in (resources.files("eval.serve") / "page").iterdir()
        if item.is_file()
    }
    runtimes = installed_runtimes()
    app.add_middleware(PageHeaders)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(pages["index.html"], media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def part_of_page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404, "the page has no such file.")
        return Response(pages[name], media_type=_type_of(Path(name)))

    @app.get("/runtimes/{name}", include_in_schema=False)
    async def runtime(name: str) -> Response:
        if name not in runtimes:
            raise HTTPException(404, "there is no such runtime. Get them: evaluate runtimes")
        return FileResponse(runtimes[name], media_type=_type_of(Path(name)))

    @app.get("/files/{name}", include_in_schema=False)
    async def model_file(name: str) -> Response:
        if name not in served.answers:
            raise HTTPException(404, "no file of this name is served here.")
        return FileResponse(served.answers[name].path, media_type="application/octet-stream")


def _type_of(path: Path) -> str:
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return TYPES.get(ending(path), guessed)
