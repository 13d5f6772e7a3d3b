"""The files that the service answers with: those of a run, or those that are named."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from configs.artifacts import ending
from configs.errors import UserError
from configs.run_dir import RunDir
from eval.choice.stored_report import StoredReport, load_report
from eval.contract.choice import NO_CHOICE, ContractChoice
from eval.devices.machine import package_version
from eval.devices.probe import weight_files
from eval.footprint import file_bytes
from eval.scoring.threshold import Threshold
from eval.serve.answers import FileAnswers
from eval.serve.runtimes import installed_runtimes

log = logging.getLogger("potstill")

FORMATS = (".tflite", ".onnx")


@dataclass(frozen=True)
class InputFacts:
    """How a photo becomes the input of a file, as in an `InputContract`.

    Attributes:
        image_size: height and width, in pixels.
        mean, std: of red, green and blue: the input is (pixel - mean) / std, with pixels in 0..255.
        channels: their order, or grey for one channel.
        layout: nhwc or nchw; None: as the shape of the input says.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    fit: str
    interpolation: str
    layout: str | None


@dataclass(frozen=True)
class FileFacts:
    """What `/metadata` says of a file.

    Attributes:
        answers: what the file returns: logits, probabilities, score or scores; None: as its values
            say.
        threshold: the score below which a photo may show none of the classes.
        top1: of the test photos, from the report of the run.
        p50_ms: on the first device of the report.
        in_browser: whether the page can run the file: the runtimes are here, the file is whole and
            takes floats.
    """

    file: str
    format: str
    file_bytes: int
    runtime: str
    classes: list[str]
    input: InputFacts
    answers: str | None
    threshold: Threshold | None = None
    parent: Annotated[str | None, Field(alias="source")] = None
    recipe: str | None = None
    top1: float | None = None
    p50_ms: float | None = None
    is_chosen: bool = False
    in_browser: bool = False


@dataclass(frozen=True)
class ServiceFacts:
    """What `/metadata` says. The first file answers where a request names none.

    Attributes:
        has_runtimes: whether those of browsers were fetched (`evaluate runtimes`).
    """

    version: str
    has_runtimes: bool
    files: list[FileFacts]


class ServedFiles:
    """Model files by their names; nothing else can be asked for.

    Attributes:
        answers: the files, the default one first.
        facts: of the files, in the same order.
    """

    def __init__(self, answers: Sequence[FileAnswers], report: StoredReport | None = None) -> None:
        self.answers: Mapping[str, FileAnswers] = {file.path.name: file for file in answers}
        if len(self.answers) < len(answers):
            raise UserError("two files have the same name. Give files with different names.")
        self.facts = ServiceFacts(
            package_version("potstill") or "",
            bool(installed_runtimes()),
            [_facts_of(file, report) for file in answers],
        )

    @property
    def default(self) -> str:
        """The name of the file that answers where a request names none."""
        return next(iter(self.answers))


def _facts_of(file: FileAnswers, report: StoredReport | None) -> FileFacts:
    metadata, contract = file.metadata, file.contract
    rows = {row.name: row for row in report.files} if report else {}
    row = rows.get(file.path.name)
    return FileFacts(
        file=file.path.name,
        format=ending(file.path)[1:],
        file_bytes=file_bytes(file.path),
        runtime=file.runtime,
        classes=file.classes,
        input=InputFacts(
            image_size=file.image_size,
            mean=contract.pixels.mean,
            std=contract.pixels.std,
            channels=contract.channels,
            fit=contract.fit,
            interpolation=contract.interpolation,
            layout=contract.layout,
        ),
        answers=contract.answers,
        threshold=metadata.threshold if metadata else None,
        parent=metadata.parent if metadata else None,
        recipe=metadata.recipe if metadata else None,
        top1=row.accuracy.top1 if row else None,
        p50_ms=row.first_latency.p50_ms if row else None,
        is_chosen=bool(report and report.verdict.chosen_file == file.path.name),
        in_browser=bool(installed_runtimes()) and file.takes_floats and not weight_files(file.path),
    )


def files_of_run(path: Path) -> ServedFiles:
    """The files of a run, or of a folder that `compress quantize` wrote, the chosen one first.

    A file that cannot be run here is left out, with a warning.

    Raises:
        UserError: there is no such folder, or no file in it that can be run here.
    """
    folder = path / "files" if (path / "files").is_dir() else path
    paths = sorted(p for p in folder.glob("*") if ending(p) in FORMATS) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"{path} holds no model files. Expected a run directory, or "
            ".tflite and .onnx files. A run writes its files with\n  compress quantize TARGET"
        )
    report = _report_of(path)
    chosen = report.verdict.chosen_file if report else None
    answers = []
    for file in sorted(paths, key=lambda file: file.name != chosen):
        try:
            answers.append(FileAnswers(file))
        except UserError as error:
            log.warning("%s is left out: %s", file.name, error)
    if not answers:
        raise UserError(f"none of the files in {folder} can be run here.")
    return ServedFiles(answers, report)


def named_files(paths: Sequence[Path], choice: ContractChoice = NO_CHOICE) -> ServedFiles:
    """Files that a user names, with what the user says of their contract.

    Raises:
        UserError: one of them cannot be run here, or two have the same name.
    """
    return ServedFiles([FileAnswers(path, choice) for path in paths])


def _report_of(path: Path) -> StoredReport | None:
    if not (path / "report.json").is_file():
        return None
    try:
        return load_report(RunDir(path))
    except UserError as error:
        log.warning("the report is not used: %s", error)
        return None
