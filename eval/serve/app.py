"""The service: which requests it answers, and with what."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from configs.errors import UserError
from eval.photo_files import UnreadablePhoto
from eval.serve.answers import ClassAnswer, FileAnswers
from eval.serve.assets import PageHeaders, page_router, read_pages
from eval.serve.served import ServedFiles, ServiceFacts
from eval.serve.uploads import Limits, Refused, UploadGate, check_photo

HOW_TO = "Send a photo as multipart/form-data: curl -F image=@photo.jpg ADDRESS/predict"


@dataclass(frozen=True)
class Health:
    """That the service answers, and with how many files."""

    status: str
    num_files: int


@dataclass(frozen=True)
class Prediction:
    """What a file says about a photo.

    Attributes:
        best: the class with the highest probability.
        accepted: whether it reaches the threshold of the file; null where the file has none.
        probabilities: all classes, by falling probability.
        ms: what it took to scale the pixels and to run the file, in milliseconds.
        file: the name of the file that answered.
    """

    best: Annotated[str, Field(alias="class")]
    accepted: bool | None
    probabilities: tuple[ClassAnswer, ...]
    ms: float
    file: str


@dataclass(frozen=True)
class Problem:
    """Why a request is not answered."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form is damaged."},
    404: {"model": Problem, "description": "No file of this name is served."},
    408: {"model": Problem, "description": "The upload took too long."},
    413: {"model": Problem, "description": "Too many bytes or pixels."},
    415: {"model": Problem, "description": "This is no photo, or not sent as a form."},
    422: {"model": Problem, "description": "No photo was sent, or it is damaged."},
    503: {"model": Problem, "description": "Too many photos at the same time."},
}


def make_app(
    served: ServedFiles,
    *,
    num_workers: int,
    hosts: list[str] | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The application for an ASGI server.

    Args:
        num_workers: how many photos are decoded and answered at the same time.
        hosts: names by which a browser may call the service; None for any.
    """
    accepted = limits or Limits()
    pool = ThreadPoolExecutor(num_workers, "photo")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown(cancel_futures=True)

    app = FastAPI(
        title="Potstill",
        summary="What model files say about photos.",
        version=served.facts.version or "0",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from the network
        redoc_url=None,
    )
    app.add_middleware(UploadGate, limits=accepted)
    if hosts is not None:
        # A page of somebody else cannot call the service under a name that it made up.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    _explain_errors(app)

    @app.get("/health")
    async def health() -> Health:
        """Whether the service is up."""
        return Health("ok", len(served.answers))

    @app.get("/metadata")
    async def metadata() -> ServiceFacts:
        """The files, their classes, and what they expect of a photo."""
        return served.facts

    @app.post("/predict", responses=REFUSALS)
    async def predict(
        image: Annotated[UploadFile, "A photo: JPEG, PNG, WebP and others."],
        file: Annotated[
            str,
            Query(description="The file to ask.", json_schema_extra={"enum": [*served.answers]}),
        ] = served.default,
    ) -> Prediction:
        """What a file says about a photo."""
        _check_request(served, file, image.content_type or "")
        content = await image.read()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, answer, served.answers[file], content, accepted)

    _add_page(app, served)
    return app


def _add_page(app: FastAPI, served: ServedFiles) -> None:
    """Serve the page, and by their names alone the files that it loads."""
    app.add_middleware(PageHeaders)
    app.include_router(page_router(read_pages("eval.serve")))

    @app.get("/files/{name}", include_in_schema=False)
    async def model_file(name: str) -> Response:
        if name not in served.answers:
            raise HTTPException(404, "no file of this name is served here.")
        return FileResponse(served.answers[name].path, media_type="application/octet-stream")


def _check_request(served: ServedFiles, file: str, kind: str) -> None:
    """Refuse a request for a file that is not served, or with something that says it is no photo.

    Args:
        kind: the content type of the upload; "" if it says none.
    """
    if file not in served.answers:
        names = ", ".join(served.answers)
        raise HTTPException(404, f"no file {file!r} is served here. Its files: {names}.")
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise Refused(415, f"{kind} is no photo. {HOW_TO}")


def answer(file: FileAnswers, content: bytes, limits: Limits) -> Prediction:
    """What a file says about the bytes of a photo.

    Raises:
        Refused: it is no photo, damaged, or has too many pixels.
    """
    check_photo(content, limits)
    try:
        image = file.image(BytesIO(content))
    except UnreadablePhoto as error:
        raise Refused(422, f"this photo cannot be read: {error}.") from None
    (said,), ms = file.answers([image])
    return Prediction(said.classes[0].name, said.accepted, said.classes, ms, file.path.name)


def _explain_errors(app: FastAPI) -> None:
    """Every refusal is one sentence under `detail`."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(UserError)
    async def failed(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, _: RequestValidationError) -> JSONResponse:
        is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
        detail = f"the field `image` holds no photo. {HOW_TO}"
        return JSONResponse({"detail": detail}, 422 if is_form else 415)
