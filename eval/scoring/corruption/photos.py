"""Corrupted test photos, and the steps that run models and files on them."""

import zlib
from collections.abc import Callable, Iterator, Sequence
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
from eval.footprint import model_sha256
from eval.images import evaluation_batches, evaluation_view
from eval.photo_files import decode_photo
from eval.scoring.corruption.corruptions import STRENGTHS, corrupt
from eval.scoring.predictions import predict_file


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

    paths: Sequence[Path]
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
    experiment: Experiment, *, paths: Sequence[Path], labels: np.ndarray
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

    return corrupted_step(run, path.name, photos, model=model_sha256(path), build=build)


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
