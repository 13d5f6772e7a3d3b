"""The parts of a `report.json` that `evaluate compare` and `evaluate gate` read."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from configs.artifacts import read_json
from configs.errors import UserError
from configs.records import from_json
from configs.run_dir import RunDir


@dataclass(frozen=True)
class StoredScores:
    """Scores of a model or a file."""

    top1: float
    split: str = "test"
    top1_low: float | None = None
    top1_high: float | None = None
    drop: Annotated[float | None, Field(alias="drop_vs_source")] = None
    drop_vs_student: float | None = None


@dataclass(frozen=True)
class StoredModel:
    """An entry of `models`."""

    name: str
    accuracy: StoredScores


@dataclass(frozen=True)
class StoredMachine:
    """A machine, or its state while a file was timed; None where it is not known."""

    cpu: str | None = None
    cores: tuple[int, ...] | None = None
    governor: str | None = None


@dataclass(frozen=True)
class StoredLatency:
    """An entry of a file's `latency`; None where it is not known."""

    p50_ms: float | None = None
    p90_ms: float | None = None
    device: str | None = None
    num_threads: int | None = None
    batch: int | None = None
    runtime: str = ""
    state: StoredMachine = StoredMachine()


@dataclass(frozen=True)
class StoredFile:
    """An entry of `files`."""

    name: str
    file_bytes: int
    accuracy: StoredScores
    latency: list[StoredLatency]

    @property
    def first_latency(self) -> StoredLatency:
        """On the first device; empty where the file was not timed."""
        return self.latency[0] if self.latency else StoredLatency()


@dataclass(frozen=True)
class StoredVerdict:
    """`verdict`."""

    chosen_file: str | None


@dataclass(frozen=True)
class StoredData:
    """`data`."""

    num_test: int


@dataclass(frozen=True)
class StoredReport:
    """A `report.json`."""

    run: str
    machine: StoredMachine
    data: StoredData
    models: list[StoredModel]
    files: list[StoredFile]
    verdict: StoredVerdict

    def file(self, name: str | None = None) -> StoredFile:
        """A file by its name, or the chosen one.

        Raises:
            UserError: there is no such file, or none was chosen.
        """
        name = name or self.verdict.chosen_file
        if name is None:
            raise UserError(f"{self.run} chose no file. Export one, and make its report again.")
        for file in self.files:
            if file.name == name:
                return file
        names = ", ".join(file.name for file in self.files) or "none"
        raise UserError(f"the report has no file {name}. Its files: {names}.")


def load_report(run: RunDir) -> StoredReport:
    """The report of a run.

    Raises:
        UserError: there is none, or not one that can be read.
    """
    content = read_json(run.path / "report.json")
    try:
        return from_json(StoredReport, content)
    except UserError:
        raise UserError(
            f"{run.path / 'report.json'} is not a report of this version. "
            f"Make it again:\n  evaluate report {run}"
        ) from None
