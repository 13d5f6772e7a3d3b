"""The page of the service, and the model files that it loads."""

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response

from eval.serve.assets import PageHeaders, page_router, read_pages
from eval.serve.served import ServedFiles


def add_page(app: FastAPI, served: ServedFiles) -> None:
    """Serve the page, and by their names alone the files that it loads."""
    app.add_middleware(PageHeaders)
    app.include_router(page_router(read_pages("eval.serve")))

    @app.get("/files/{name}", include_in_schema=False)
    async def model_file(name: str) -> Response:
        if name not in served.answers:
            raise HTTPException(404, "no file of this name is served here.")
        return FileResponse(served.answers[name].path, media_type="application/octet-stream")
