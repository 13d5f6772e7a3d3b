"""What report.json holds. Its keys are a contract: fields may be added, existing ones stay."""

from dataclasses import dataclass
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from eval.choice.file_to_ship import Verdict
from eval.choice.model_to_ship import ShippedModel
from eval.devices.machine import Machine
from eval.distillation.audit import Distillation
from eval.distillation.label_curve import LabelCurve
from eval.report.costs import StepCost
from eval.report.failures import ClassFlips
from eval.scoring.accuracy import Accuracy
from eval.scoring.calibration import Calibration
from eval.scoring.corruption.robustness import Robustness
from eval.scoring.file_rows import FileRow
from eval.scoring.threshold import AcceptedPhotos


@dataclass(frozen=True)
class DataFacts:
    """The photos of a run: `data` in report.json.

    Attributes:
        source: the name of the source and of the folder.
        num_left_out: photos without labels that the student did not learn from, because its
            teacher was not sure enough of them.
        num_skipped: files that could not be used.
    """

    source: str
    classes: list[str]
    num_train: int
    num_validation: int
    num_test: int
    num_unlabelled: int
    num_left_out: int
    num_skipped: int


@dataclass(frozen=True)
class ModelRow:
    """One entry of `models`; None where it is not known, as for a teacher given as files.

    Attributes:
        input_shape: (height, width, channels).
        num_macs: multiply-accumulate operations for one photo.
        accuracy: on the test photos.
        strategy: which layers learned when.
    """

    name: str
    backbone: str
    input_shape: list[int]
    num_parameters: int | None
    num_macs: int | None
    seconds_to_train: float | None
    accuracy: Accuracy
    strategy: str | None = None


@dataclass(frozen=True)
class FileEntry:
    """One entry of `files`, where the fields of `row` and the others are one object.

    Attributes:
        sha256: the digest of the file.
        flips_by_class: how many answers about each class differ from those of the parent.
        threshold: what the file's threshold does on the test photos; None if it carries none.
    """

    row: FileRow
    sha256: str
    flips_by_class: list[ClassFlips]
    threshold: AcceptedPhotos | None

    @model_serializer(mode="wrap")
    def _as_one_object(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return {**values.pop("row"), **values}


@dataclass(frozen=True)
class Provenance:
    """What the run was made from: digests of the config and the manifest, package versions."""

    config_sha256: str
    photos_sha256: str
    packages: dict[str, str]


@dataclass(frozen=True)
class Report:
    """The results of a run: report.json.

    Attributes:
        run: the name of the run directory.
        created: when the report was made, as ISO 8601.
        machine: what the files were timed on.
        distillation: None without a control.
        robustness: None if the config names no corruption.
        shipped: the model that became files.
        label_curve: None without student.label_curve.
        calibration: of that model; None if no temperature is folded into it.
    """

    run: str
    created: str
    seed: int
    machine: Machine
    data: DataFacts
    models: list[ModelRow]
    files: list[FileEntry]
    distillation: Distillation | None
    steps: list[StepCost]
    robustness: Robustness | None
    provenance: Provenance
    verdict: Verdict
    shipped: ShippedModel
    calibration: Calibration | None
    label_curve: LabelCurve | None
