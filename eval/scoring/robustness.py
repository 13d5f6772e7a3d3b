"""Whether compression costs more on corrupted photos than on clean ones."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from configs.artifacts import file_sha256, whole_file
from configs.progress import track
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from configs.schema import Experiment
from eval.devices.probe import open_model
from eval.images import evaluation_batches, evaluation_view
from eval.photo_files import decode_photo
from eval.scoring.corruptions import STRENGTHS, corrupt
from eval.scoring.intervals import paired_bootstrap
from eval.scoring.predictions import predict_file

HURTS_MORE: Final = "hurts more"
HURTS_LESS: Final = "hurts less"
NO_DIFFERENCE: Final = "no measurable difference"
Hurts = Literal["hurts more", "hurts less", "no measurable difference"]


@dataclass(frozen=True)
class CorruptedPhotos:
    """Test photos, and the corruptions that they are shown under.

    Attributes:
        labels: class indices, int (photos,).
        kinds: names in `CORRUPTIONS`.
        max_short_side: a photo is shrunk to this many pixels before it is corrupted, and never
            enlarged. It is the largest input of the run, so that all models see the same corrupted
            photo.
    """

    paths: list[Path]
    labels: np.ndarray
    kinds: list[str]
    max_short_side: int

    def inputs(self, run: RunDir) -> dict[str, Any]:
        """What the answers to these photos depend on, apart from the model."""
        return {
            "photos": file_sha256(run.photos_manifest),
            "num_photos": len(self.paths),
            "corruptions": self.kinds,
            "max_short_side": self.max_short_side,
        }

    def __len__(self) -> int:
        return len(self.paths) * len(self.kinds) * len(STRENGTHS)

    def batches(self, image_size: tuple[int, int]) -> Iterator[np.ndarray]:
        """One batch for each photo, with all its corruptions: uint8 (kinds * 5, *image_size, 3)."""
        for batch in evaluation_batches(self.paths, image_size, 1, self._corruptions_of):
            yield batch[0]

    def _corruptions_of(self, path: Path, image_size: tuple[int, int]) -> np.ndarray:
        photo = decode_photo(path, self.max_short_side)
        seed = zlib.crc32(photo.tobytes())  # of the photo's content, wherever its file lies
        corrupted = (
            corrupt(photo, kind, strength=strength, seed=seed)
            for kind in self.kinds
            for strength in STRENGTHS
        )
        return np.stack([evaluation_view(image, image_size) for image in corrupted])

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The likeliest classes, int32 (photos, kinds, 5), of scores in the order of `batches`."""
        best = scores.argmax(axis=1).astype("int32")
        return best.reshape(len(self.paths), len(self.kinds), len(STRENGTHS))


def corrupted_photos(
    experiment: Experiment, *, paths: list[Path], labels: np.ndarray
) -> CorruptedPhotos | None:
    """The first test photos of a run: a random sample, because they are ordered by digest.

    Returns:
        None where the config names no corruption.
    """
    evaluate = experiment.evaluate
    if not evaluate.corruptions:
        return None
    return CorruptedPhotos(
        paths[: evaluate.num_corrupted],
        labels[: evaluate.num_corrupted],
        sorted(evaluate.corruptions),
        max(experiment.teacher.image_size, experiment.student.image_size),
    )


def corrupted_file_step(
    run: RunDir, path: Path, photos: CorruptedPhotos, *, num_threads: int
) -> Step:
    """The step that runs one file on the corrupted photos."""

    def build(workspace: Workspace) -> Built:
        size = open_model(path, num_threads).input_shape[:2]
        with track(f"{path.name}: corrupted", len(photos)) as advance:
            probs = predict_file(
                path, photos.batches(size), num_threads=num_threads, progress=advance
            )
        return [save_answers(run, path.name, photos.answers(probs))], {}

    return corrupted_step(run, path.name, photos, model=file_sha256(path), build=build)


def corrupted_step(
    run: RunDir,
    name: str,
    photos: CorruptedPhotos,
    *,
    model: str,
    build: Callable[[Workspace], Built],
) -> Step:
    """The step that runs one model or file on the corrupted photos.

    Args:
        model: its digest.
        build: runs it and saves the answers.
    """
    manifest = run.corrupted_answers(name).with_name(name + ".json")
    inputs = {**photos.inputs(run), "model": model}
    return Step(f"corrupted photos of {name}", manifest, inputs, build)


def save_answers(run: RunDir, name: str, answers: np.ndarray) -> Path:
    """Write answers; returns their path. The file is complete afterwards or absent."""
    target = run.corrupted_answers(name)
    with whole_file(target) as unfinished:
        np.save(unfinished, answers)
    return target


@dataclass(frozen=True)
class ExtraDrop:
    """Drops of a file against its parent, on clean and corrupted photos, and their difference.

    Each has the ends of its 95 % interval over the photos. A positive drop is lost accuracy.
    """

    clean_drop: float
    clean_drop_low: float
    clean_drop_high: float
    corrupted_drop: float
    corrupted_drop_low: float
    corrupted_drop_high: float
    extra_drop: float
    extra_drop_low: float
    extra_drop_high: float
    verdict: Hurts


@dataclass(frozen=True)
class RobustnessRow:
    """One model or file on clean and on corrupted photos; its drops are keys of the same object.

    Attributes:
        parent: the model that compression made it from; None for a model that was trained.
        corrupted_top1: the mean of all kinds and strengths.
        top1: by kind, then by strength.
        drops: None without a parent.
    """

    name: str
    parent: Annotated[str | None, Field(alias="source")]
    clean_top1: float
    corrupted_top1: float
    top1: dict[str, list[float]]
    drops: ExtraDrop | None

    @model_serializer(mode="wrap")
    def _as_one_object(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        drops = values.pop("drops") or {}
        return {**values, **drops}


@dataclass(frozen=True)
class Robustness:
    """Models and files on corrupted photos: `robustness` of report.json.

    Attributes:
        sentence: the result for the file that ships, for people; None where there is none.
    """

    num_photos: int
    kinds: list[str]
    num_strengths: int
    rows: list[RobustnessRow]
    sentence: str | None


def robustness(
    run: RunDir,
    photos: CorruptedPhotos,
    *,
    clean: dict[str, np.ndarray],
    parents: dict[str, str | None],
    shipped: str | None,
) -> Robustness:
    """Compares each model and file with its parent, on clean and on corrupted photos.

    Args:
        clean: probabilities on the test photos (examples, classes), by name.
        parents: the model that compression made each from; None for a model that was trained.
        shipped: the name of the file that ships, which the sentence is about.
    """
    labels = photos.labels
    clean_right = {
        name: probs[: len(labels)].argmax(axis=1) == labels for name, probs in clean.items()
    }
    corrupted_right = {
        name: np.load(run.corrupted_answers(name)) == labels[:, None, None] for name in clean
    }
    rows = []
    for name, parent in parents.items():
        drops = None
        if parent is not None:
            clean_drops = clean_right[parent].astype(float) - clean_right[name]
            corrupted_drops = corrupted_right[parent].astype(float) - corrupted_right[name]
            drops = extra_drop(clean_drops, corrupted_drops.mean(axis=(1, 2)))
        by_kind = corrupted_right[name].mean(axis=0).tolist()
        row = RobustnessRow(
            name=name,
            parent=parent,
            clean_top1=float(clean_right[name].mean()),
            corrupted_top1=float(corrupted_right[name].mean()),
            top1=dict(zip(photos.kinds, by_kind, strict=True)),
            drops=drops,
        )
        rows.append(row)
    sentence = next((robustness_sentence(row) for row in rows if row.name == shipped), None)
    return Robustness(len(labels), photos.kinds, len(STRENGTHS), rows, sentence)


def robustness_sentence(row: RobustnessRow) -> str | None:
    """The drops of a row for people; None without a parent."""
    drops = row.drops
    if drops is None:
        return None
    results = {
        HURTS_MORE: "Compression costs more on corrupted photos than on clean ones",
        HURTS_LESS: "Compression costs less on corrupted photos than on clean ones",
        NO_DIFFERENCE: "Compression costs about the same on corrupted photos as on clean ones",
    }
    return (
        f"{results[drops.verdict]}: against {row.parent}, {row.name} loses "
        f"{100 * drops.clean_drop:.1f} points on the clean photos and "
        f"{100 * drops.corrupted_drop:.1f} on the corrupted ones, a difference of "
        f"{100 * drops.extra_drop:+.1f} (95 %: {100 * drops.extra_drop_low:+.1f} to "
        f"{100 * drops.extra_drop_high:+.1f})."
    )


def extra_drop(clean: np.ndarray, corrupted: np.ndarray) -> ExtraDrop:
    """How much larger the drops on corrupted photos are than on clean ones.

    Args:
        clean: by how much the parent is right more often on each photo, (photos,).
        corrupted: the same under corruption, the mean of all kinds and strengths.
    """
    (clean_low, clean_high), (corrupted_low, corrupted_high), (low, high) = (
        paired_bootstrap(drops[None]) for drops in (clean, corrupted, corrupted - clean)
    )
    verdict: Hurts = HURTS_MORE if low > 0 else HURTS_LESS if high < 0 else NO_DIFFERENCE
    return ExtraDrop(
        clean_drop=float(clean.mean()),
        clean_drop_low=clean_low,
        clean_drop_high=clean_high,
        corrupted_drop=float(corrupted.mean()),
        corrupted_drop_low=corrupted_low,
        corrupted_drop_high=corrupted_high,
        extra_drop=float((corrupted - clean).mean()),
        extra_drop_low=low,
        extra_drop_high=high,
        verdict=verdict,
    )
