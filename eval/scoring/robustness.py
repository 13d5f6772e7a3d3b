"""Does compression hurt more where photos are bad? Models and files on corrupted test photos."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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

HURTS_MORE, HURTS_LESS, NO_DIFFERENCE = "hurts more", "hurts less", "no measurable difference"


@dataclass(frozen=True)
class CorruptedPhotos:
    """Some test photos and what is done to them.

    Attributes:
        labels: class indices, int (photos,).
        max_short_side: a photo is shrunk to so many pixels, never enlarged, before it is
            corrupted: the largest input of the run, so that all models see one corrupted photo.
    """

    paths: list[Path]
    labels: np.ndarray
    kinds: list[str]
    max_short_side: int

    def inputs(self, run: RunDir) -> dict[str, Any]:
        """What answers about them depend on beside the model."""
        return {
            "photos": file_sha256(run.photos_manifest),
            "num_photos": len(self.paths),
            "corruptions": self.kinds,
            "max_short_side": self.max_short_side,
        }

    def __len__(self) -> int:
        return len(self.paths) * len(self.kinds) * len(STRENGTHS)

    def batches(self, image_size: tuple[int, int]) -> Iterator[np.ndarray]:
        """All that is made of one photo after the other: uint8 (kinds * 5, *image_size, 3)."""
        for batch in evaluation_batches(self.paths, image_size, 1, self._see):
            yield batch[0]

    def _see(self, path: Path, image_size: tuple[int, int]) -> np.ndarray:
        photo = decode_photo(path, self.max_short_side)
        seed = zlib.crc32(photo.tobytes())  # the photo's own, wherever it lies
        corrupted = (
            corrupt(photo, k, strength=s, seed=seed) for k in self.kinds for s in STRENGTHS
        )
        return np.stack([evaluation_view(some, image_size) for some in corrupted])

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The best class of each: int32 (photos, kinds, 5), of scores in the order of `batches`."""
        best = scores.argmax(axis=1).astype("int32")
        return best.reshape(len(self.paths), len(self.kinds), len(STRENGTHS))


def corrupted_photos(
    experiment: Experiment, *, paths: list[Path], labels: np.ndarray
) -> CorruptedPhotos | None:
    """The first test photos of a run, which are any: they lie in the order of their digests.

    Returns:
        None where the config asks for no corruption.
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
    """What one file of the run answers about the corrupted photos."""

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
    """The step of one model or file, of which `model` is the digest."""
    manifest = run.corrupted_answers(name).with_name(name + ".json")
    inputs = {**photos.inputs(run), "model": model}
    return Step(f"corrupted photos of {name}", manifest, inputs, build)


def save_answers(run: RunDir, name: str, answers: np.ndarray) -> Path:
    """Write answers, whole or not at all; returns where."""
    target = run.corrupted_answers(name)
    with whole_file(target) as unfinished:
        np.save(unfinished, answers)
    return target


def robustness(
    run: RunDir,
    photos: CorruptedPhotos,
    *,
    clean: dict[str, np.ndarray],
    sources: dict[str, str | None],
) -> dict[str, Any]:
    """`robustness` of report.json: each model and file on clean and on corrupted photos.

    Args:
        clean: probabilities on the test photos (examples, classes), by name.
        sources: what each was made from by compression; None of a model that was trained.

    Returns:
        num_photos; kinds; num_strengths; rows: name, clean_top1, corrupted_top1 (the mean of all
        kinds and strengths), top1 by kind and strength, and of what has a source, as positive
        losses against it: clean_drop, corrupted_drop and extra_drop, the difference of both, each
        with the ends of its 95 % interval over the photos; verdict of the last.
    """
    labels = photos.labels
    right = {name: probs[: len(labels)].argmax(axis=1) == labels for name, probs in clean.items()}
    endured = {
        name: np.load(run.corrupted_answers(name)) == labels[:, None, None] for name in right
    }
    rows = []
    for name, source in sources.items():
        by_kind = dict(zip(photos.kinds, endured[name].mean(axis=0).tolist(), strict=True))
        row = {
            "name": name,
            "source": source,
            "clean_top1": float(right[name].mean()),
            "corrupted_top1": float(endured[name].mean()),
            "top1": by_kind,
        }
        if source is not None:
            clean_drops = right[source].astype(float) - right[name]
            drops = (endured[source].astype(float) - endured[name]).mean(axis=(1, 2))
            row |= _drops(clean_drops, drops)
        rows.append(row)
    return {
        "num_photos": len(labels),
        "kinds": photos.kinds,
        "num_strengths": len(STRENGTHS),
        "rows": rows,
    }


def robustness_sentence(row: dict[str, Any]) -> str | None:
    """What a row of `robustness` with a source comes to, for people."""
    if row["source"] is None:
        return None
    low, high = 100 * row["extra_drop_low"], 100 * row["extra_drop_high"]
    none = "hurts no more and no less, as far as this shows,"
    said = none if row["verdict"] == NO_DIFFERENCE else row["verdict"]
    return (
        f"Compression {said} under corruption: against {row['source']}, {row['name']} loses "
        f"{100 * row['clean_drop']:.1f} points on the clean photos and "
        f"{100 * row['corrupted_drop']:.1f} on the corrupted ones, a difference of "
        f"{100 * row['extra_drop']:+.1f} (95 %: {low:+.1f} to {high:+.1f})."
    )


def _drops(clean: np.ndarray, corrupted: np.ndarray) -> dict[str, Any]:
    """Mean losses of a photo, clean and corrupted, and what corruption adds."""
    found: dict[str, Any] = {}
    for name, values in (("clean", clean), ("corrupted", corrupted), ("extra", corrupted - clean)):
        low, high = paired_bootstrap(values[None])
        found |= {
            f"{name}_drop": float(values.mean()),
            f"{name}_drop_low": low,
            f"{name}_drop_high": high,
        }
    more, less = found["extra_drop_low"] > 0, found["extra_drop_high"] < 0
    return {**found, "verdict": HURTS_MORE if more else HURTS_LESS if less else NO_DIFFERENCE}
