"""Files for pages that run model files in a browser: their types, and the headers around them."""

import mimetypes
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.artifacts import ending
from eval.serve.runtimes import installed_runtimes

TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
CACHE_SECONDS = 86_400
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
    """Adds the headers that isolate a page to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def read_pages(package: str) -> dict[str, bytes]:
    """The files in the folder `page` of a package, by their names."""
    folder = resources.files(package) / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}


def page_router(pages: dict[str, bytes], *, is_kept: bool = False) -> APIRouter:
    """Serves a page and, by their names alone, its parts and the runtimes of browsers.

    Args:
        pages: by their names; "index.html" is the page.
        is_kept: whether a browser may keep the parts and the runtimes in its cache. It should
            where the address of the page is never used for another one.
    """
    router, runtimes = APIRouter(include_in_schema=False), installed_runtimes()
    headers = {"cache-control": f"max-age={CACHE_SECONDS}"} if is_kept else None

    @router.get("/")
    async def page() -> Response:
        return Response(pages["index.html"], media_type="text/html; charset=utf-8")

    @router.get("/page/{name}")
    async def part_of_page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404, "the page has no such file.")
        return Response(pages[name], media_type=_type_of(Path(name)), headers=headers)

    @router.get("/runtimes/{name}")
    async def runtime(name: str) -> Response:
        if name not in runtimes:
            raise HTTPException(404, "there is no such runtime. Get them: evaluate runtimes")
        return FileResponse(runtimes[name], media_type=_type_of(Path(name)), headers=headers)

    return router


def _type_of(path: Path) -> str:
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return TYPES.get(ending(path), guessed)
