"""`evaluate predict`, `serve` and `runtimes`: what model files say about photos."""

from pathlib import Path
from typing import Annotated

import typer

from commands.contract import ContractOptions
from commands.options import Result, refuse
from configs.errors import UserError

NO_LABELLED_PHOTOS = (
    "--contract auto tries a file on labelled photos, and there are none here. Find the options "
    "with\n  evaluate accuracy FILE --data PHOTOS --contract auto"
)
OWN_FILES = "the files of a run say themselves what they expect. It is for .tflite and .onnx files."


def predict(
    file: Annotated[Path, typer.Argument(help="A .tflite or .onnx file.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos.")],
    contract: ContractOptions,
) -> Result:
    """Show what a file says about photos."""
    from eval.serve.answers import predict_photos

    if contract.contract:
        raise UserError(NO_LABELLED_PHOTOS)
    answers = predict_photos(file, photos, choice=contract.choice())
    lines = []
    for answer in answers:
        best = "  ".join(f"{p['class']} {p['probability']:.1%}" for p in answer["answers"][:3])
        doubt = "none of these?  " if answer["accepted"] is False else ""
        lines.append(f"{answer['photo']}  {doubt}{best}")
    return Result({"file": str(file), "predictions": answers}, "\n".join(lines))


def serve(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN | FILE...",
            help="A run directory, or one or more .tflite and .onnx files.",
            show_default=False,
        ),
    ],
    contract: ContractOptions,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")
    ] = 8000,
    host: Annotated[
        str,
        typer.Option("--host", help="0.0.0.0: other machines can reach the service, too."),
    ] = "127.0.0.1",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            max=256,
            help="Photos that are answered at the same time.",
            show_default="cores, at most 8",
        ),
    ] = None,
    https: Annotated[
        bool,
        typer.Option("--https", help="Sign a certificate, which the camera of a phone needs."),
    ] = False,
) -> Result:
    """Start a page and an HTTP service: what the files of a run, or others, say about a photo."""
    if contract.contract:
        raise UserError(NO_LABELLED_PHOTOS)
    names_files = are_files(target)
    if not names_files:
        refuse(" ".join(target), OWN_FILES, contract)
        if len(target) != 1:
            raise UserError(f"{' '.join(target)}: expected one run, or .tflite and .onnx files.")
    try:
        from eval.serve import server
        from eval.serve.app import make_app

        if https:  # its package takes a while to load
            from eval.serve.certificate import self_signed
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'potstill[serve]'") from None
    from eval.serve.served import files_of_run, named_files

    listener = server.listen(host, port)
    paths = [Path(word) for word in target]
    served = named_files(paths, contract.choice()) if names_files else files_of_run(paths[0])
    hosts = list(server.LOOPBACK) if server.is_loopback(listener) else None
    app = make_app(served, num_workers=workers or server.default_workers(), hosts=hosts)
    certificate = self_signed(server.reachable_at(listener)) if https else None
    running = server.make_server(app, certificate=certificate.pem if certificate else None)
    url = server.address(listener, https=https)
    server.stop_on_signals(running)
    warning = f"{certificate.warning}\n" if certificate else ""
    names = ", ".join(served.answers)
    return Result(
        {"url": url, "files": list(served.answers)},
        f"{url} answers with {names}\nOpen it in a browser, or send a photo:\n"
        f"  curl {'-k ' if https else ''}-F image=@photo.jpg {url}predict\n{warning}"
        "Ctrl-C stops it.",
        then=lambda: running.run([listener]),
    )


def runtimes(
    archives: Annotated[
        Path | None,
        typer.Option("--from", help="Folder with the archives that npm pack wrote: no network."),
    ] = None,
) -> Result:
    """Get LiteRT.js and ONNX Runtime Web once, so that the page of `serve` runs files itself."""
    from eval.serve.runtimes import PACKAGES, fetch_runtimes

    folder = fetch_runtimes(archives)
    packages = [package.words for package in PACKAGES]
    return Result(
        {"folder": str(folder), "packages": packages}, f"{', '.join(packages)} in {folder}"
    )


def are_files(words: list[str]) -> bool:
    """Whether the words are model files rather than one target."""
    from configs.artifacts import ending

    files = [ending(word) in (".tflite", ".onnx") for word in words]
    if any(files) and not all(files):
        raise UserError(f"{' '.join(words)}: give one TARGET, or only .tflite and .onnx files.")
    return all(files)
