"""`compress bundle`: one ZIP with a model file and all that the people who build the app need."""

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from compress.bare_files import score_files
from compress.bundle.archive import write_zip
from compress.bundle.code import NPM_RUNTIMES, code_files, environment, has_page
from compress.bundle.contract import BundleContract, Numbers, bundle_contract
from compress.bundle.photos import TestPhoto, draw_photos
from compress.recipes.runtimes import runtime_of
from configs.artifacts import ending, file_sha256, read_json
from configs.errors import UserError
from configs.records import to_json
from configs.resume import Facts
from configs.run_dir import RunDir
from distill.data.manifest import Examples, load_examples
from distill.data.scan import scan_flat_folder, scan_folder
from distill.data.sources.folders import is_flat
from eval.choice.stored_report import load_report
from eval.contract.choice import NO_CHOICE, ContractChoice, contract_of
from eval.contract.file_contract import describe
from eval.devices.machine import package_version
from eval.footprint import file_bytes, model_parts, zip_bytes
from eval.metadata import FileMetadata
from eval.report.wording import FILTERS
from eval.serve.answers import predict_photos

TOLERANCE = 0.02
"""How far a probability may be from the expected one. Runtimes of other versions and machines round
int8 differently; a wrong preparation of the photo moves probabilities by much more."""

FITS = {
    "crop": "the largest centred part with the shape of the input is cut out and resized",
    "stretch": "all of the photo is resized, whatever becomes of the ratio of its sides",
    "pad": "all of the photo is resized to fit inside, between black borders of equal width",
}
ANSWERS = {
    "logits": "logits; softmax makes probabilities of them",
    "probabilities": "a probability for each class",
    "score": "the probability of the second of two classes",
    "scores": "an independent probability for each class",
}


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        file: the name of the model file in it.
        num_photos: how many test photos it holds.
    """

    path: Path
    file: str
    num_photos: int
    sha256: str


@dataclass(frozen=True)
class _Parts:
    """What is known of a file before its bundle is written.

    Attributes:
        test: the photos to draw from; None for none.
        origin: a sentence about where the photos come from.
        measured: `measured.json`.
        card: the model card; None to write one from the contract.
    """

    file: Path
    metadata: FileMetadata | None
    contract: BundleContract
    choice: ContractChoice
    measured: Facts
    test: Examples | None = None
    origin: str = ""
    card: str | None = None


def bundle_run(
    run: RunDir, name: str | None = None, *, out: Path | None = None, photos: bool = True
) -> Bundled:
    """The bundle of a file of a run, with test photos of the run.

    Args:
        name: of the file; None for the one that the report chose.
        out: the ZIP; None for its usual place in the run.

    Raises:
        UserError: the run has no report, no such file, or the file is not the one of the report.
    """
    if not (run.path / "report.json").is_file():
        raise UserError(f"{run} has no report. Write it first:\n  evaluate report {run}")
    row_name = load_report(run).file(name).name
    report = read_json(run.path / "report.json")
    row = next(row for row in report["files"] if row["name"] == row_name)
    file = run.file(row_name)
    metadata, contract = _contract(file, NO_CHOICE)
    if row.get("sha256") not in (None, contract.sha256):
        raise UserError(
            f"{file} changed since it was measured. Measure it again:\n  evaluate report {run}"
        )
    card = run.path / "model_card.md"
    parts = _Parts(
        file, metadata, contract, NO_CHOICE,
        measured={"run": report["run"], "data": report["data"], **_without_path(row)},
        test=load_examples(run, "test") if photos else None,
        origin=f"They are test photos of the run {report['run']}, and come from "
        f"{report['data']['source']}. Nothing was trained, chosen or calibrated with them.",
        card=card.read_text("utf-8") if card.is_file() else None,
    )  # fmt: skip
    return _write(parts, out or run.path / "bundles" / f"{file.name}.zip")


def bundle_file(
    file: Path,
    *,
    data: Path | None = None,
    choice: ContractChoice = NO_CHOICE,
    out: Path | None = None,
    photos: bool = True,
) -> Bundled:
    """The bundle of a file that belongs to no run.

    Args:
        data: a folder of class folders or of photos, whose test part scores the file and gives the
            photos.
        choice: what the user says of the contract of a file that carries none.
        out: the ZIP; None for beside the file.

    Raises:
        UserError: the file or the folder does not fit.
    """
    metadata, contract = _contract(file, choice)
    if metadata is not None and choice != NO_CHOICE:
        raise UserError(
            f"{file} carries its own contract, and the bundle states that one. Leave out the "
            "options that say what the model expects."
        )
    parts = _Parts(file, metadata, contract, choice, measured=_sizes(file, metadata))
    if data is not None:
        flat = is_flat(data)
        splits = scan_flat_folder(data) if flat else scan_folder(data, **_shares(metadata))
        if not flat:
            (row,) = score_files([file], data=data, choice=choice)
            parts = replace(parts, measured=_without_path(row))
        if photos:
            origin = f"They are test photos of the folder {data.resolve().name}."
            parts = replace(parts, test=splits["test"], origin=origin)
    return _write(parts, out or file.with_name(f"{file.name}.zip"))


def _contract(file: Path, choice: ContractChoice) -> tuple[FileMetadata | None, BundleContract]:
    metadata = describe(file)
    return metadata, bundle_contract(file, contract_of(file, metadata, choice), metadata)


def _shares(metadata: FileMetadata | None) -> dict[str, float]:
    """The same shares of test photos as those of the photos that the file was made with."""
    split = metadata.split if metadata else None
    return {"validation": split.validation, "test": split.test} if split else {}


def _sizes(file: Path, metadata: FileMetadata | None) -> Facts:
    return {
        "name": file.name,
        "recipe": metadata.recipe if metadata else None,
        "file_bytes": file_bytes(file),
        "zip_bytes": zip_bytes(file),
        "runtime": to_json(runtime_of(file)) if metadata else None,
        "accuracy": None,
        "latency": [],
    }


def _without_path(row: Facts) -> Facts:
    """A row of report.json without a path, which means nothing elsewhere."""
    return {key: value for key, value in row.items() if key != "path"}


def _write(parts: _Parts, out: Path) -> Bundled:
    if ending(out) != ".zip":
        raise UserError(f"--out {out} is not a ZIP. Name a file, as in --out app/model.zip.")
    contract = parts.contract
    members = {
        f"model/{part.relative_to(parts.file.parent).as_posix()}": part.read_bytes()
        for part in model_parts(parts.file)
    }
    drawn = draw_photos(parts.test, image_size=contract.image_size) if parts.test else []
    expected = _expected(parts, drawn)
    members |= {f"photos/{photo.name}": photo.png for photo in drawn}
    if drawn:
        members["photos/expected.json"] = _json(expected)
    members["contract.json"] = _json(to_json(contract))
    members["labels.txt"] = "".join(f"{' '.join(n.split())}\n" for n in contract.classes).encode()
    members["measured.json"] = _json(parts.measured)
    values = {
        "contract": contract,
        "format": ending(contract.file)[1:],
        "measured": parts.measured,
        "expected": expected,
        "origin": parts.origin,
        "metadata": parts.metadata,
        "version": package_version("potstill"),
        "has_page": has_page(contract),
        "npm": list(NPM_RUNTIMES[ending(contract.file)]),
        "fits": FITS,
        "answers": ANSWERS,
        "numbers": _in_words,
    }
    pages = environment()
    pages.filters |= FILTERS
    members["README.md"] = pages.get_template("README.md.jinja").render(values).encode()
    card = parts.card or pages.get_template("model_card.md.jinja").render(values)
    members["model_card.md"] = card.encode()
    members |= code_files(contract)
    members["SHA256SUMS"] = "".join(
        f"{hashlib.sha256(members[name]).hexdigest()}  {name}\n" for name in sorted(members)
    ).encode()
    write_zip(out, members, folder=parts.file.stem)
    return Bundled(out, contract.file, len(drawn), file_sha256(out))


def _expected(parts: _Parts, drawn: list[TestPhoto]) -> Facts:
    """`expected.json`: what the file answers about the photos, as `evaluate predict` says it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / photo.name for photo in drawn]
        for path, photo in zip(paths, drawn, strict=True):
            path.write_bytes(photo.png)
        answers = predict_photos(parts.file, paths, choice=parts.choice) if paths else []
    photos = [
        {**answer, "photo": photo.name, "label": photo.label}
        for photo, answer in zip(drawn, answers, strict=True)
    ]
    return {"tolerance": TOLERANCE, "photos": photos}


def _in_words(numbers: Numbers) -> str:
    """float32 (1, 224, 224, 3), and what whole numbers stand for."""
    text = f"{numbers.dtype} ({', '.join(map(str, numbers.shape))})"
    if numbers.scale is None:
        return text
    return f"{text}, where n stands for (n - {numbers.zero}) * {numbers.scale!r}"


def _json(value: object) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
