"""What the functions for notebooks return: plain records, and tables where pandas is there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UserError
from configs.resume import Facts

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class FileResult:
    """A model file and what was measured of it; None where it was not.

    Attributes:
        parent: the model that the file was made from.
        file_bytes, zip_bytes: on disk, and in a download.
        top1: share of the test photos whose class the file names, with the ends of its 95 %
            interval.
        num_photos: how many test photos that were.
        same_as_parent: share of the photos about which file and parent give the same answer.
        drop: what the file loses of the parent's top-1; 0.01 is one point.
        p50_ms, p90_ms: latency on the first device.
    """

    name: str
    path: Path
    recipe: str | None
    parent: str | None
    file_bytes: int
    zip_bytes: int | None = None
    top1: float | None = None
    top1_low: float | None = None
    top1_high: float | None = None
    num_photos: int | None = None
    same_as_parent: float | None = None
    drop: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None

    @classmethod
    def of_row(cls, row: Facts, folder: Path = Path()) -> "FileResult":
        """The result in a row of report.json.

        Args:
            folder: what the path in the row is relative to.
        """
        accuracy = row.get("accuracy") or {}
        # Photos without labels show only whether the file answers as its parent.
        agreement = row.get("agreement") or {}
        latency = (row.get("latency") or [{}])[0]
        return cls(
            name=row["name"],
            path=folder / row["path"],
            recipe=row.get("recipe"),
            parent=row.get("source"),
            file_bytes=row["file_bytes"],
            zip_bytes=row.get("zip_bytes"),
            top1=accuracy.get("top1"),
            top1_low=accuracy.get("top1_low"),
            top1_high=accuracy.get("top1_high"),
            num_photos=accuracy.get("n", agreement.get("n")),
            same_as_parent=accuracy.get(
                "agreement_with_source", agreement.get("agreement_with_source")
            ),
            drop=accuracy.get("drop_vs_source"),
            p50_ms=latency.get("p50_ms"),
            p90_ms=latency.get("p90_ms"),
        )

    def _repr_html_(self) -> str | None:
        return _html([self])


@dataclass(frozen=True)
class ModelResult:
    """A trained model of a run, with its top-1 on the test photos.

    Attributes:
        name: teacher, student, control, or the name of a method.
    """

    name: str
    backbone: str
    num_parameters: int | None
    top1: float
    top1_low: float
    top1_high: float


class _Files:
    """What a result shows of its files."""

    files: tuple[FileResult, ...]
    chosen: str | None
    reason: str

    def files_frame(self) -> "DataFrame":
        """One row for each file.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.files)

    def _repr_html_(self) -> str | None:
        return _html(self.files, self.chosen, self.reason)


@dataclass(frozen=True)
class RunResult(_Files):
    """A run that is done.

    Attributes:
        path: the run directory.
        chosen: the name of the file to ship; None if there is none.
        reason: why this one.
        failures: files that could not be written, and why.
        report: report.json.
    """

    path: Path
    models: tuple[ModelResult, ...]
    files: tuple[FileResult, ...]
    chosen: str | None
    reason: str
    failures: dict[str, str]
    report: Facts = field(repr=False)

    def models_frame(self) -> "DataFrame":
        """One row for each model.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.models)


@dataclass(frozen=True)
class QuantizeResult(_Files):
    """The files that were made of a model.

    Attributes:
        chosen: the name of the file that holds the limits; None without limits, or if none does.
        reason: why this one, or why none; "" without limits.
        failures: files that could not be made, and why.
    """

    files: tuple[FileResult, ...]
    chosen: str | None
    reason: str
    failures: dict[str, str]


def frame_of(records: Sequence[Any]) -> "DataFrame":
    """A table with a column for each field of the records, and their names as the index.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("a table needs one more package: pip install pandas") from None
    rows = [asdict(record) for record in records]
    return pandas.DataFrame(rows).set_index("name") if rows else pandas.DataFrame()


def _html(files: Sequence[FileResult], chosen: str | None = None, reason: str = "") -> str | None:
    """What a notebook shows of a result; None without pandas, for the plain text."""
    try:
        frame = frame_of(files)
    except UserError:
        return None
    shown: str = frame.drop(columns=["path"], errors="ignore").to_html()
    note = f"{chosen}: {reason}" if chosen else reason
    return f"{shown}<p>{_escaped(note)}</p>" if note else shown


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
