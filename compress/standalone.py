"""The last mile alone: a bare `.keras` model and a folder of photos become measured files."""

from pathlib import Path
from typing import Any

from compress.export import RECIPES, file_name, write_file
from compress.graph import image_size_of
from configs.errors import UserError
from configs.run_dir import make_artifact
from configs.schema import Choice
from distill.classifier import load_model
from distill.data import Examples, scan_folder
from distill.predictions import model_probabilities
from eval.accuracy import OWN_PIXELS, Pixels
from eval.results import Photos, Reference, choose, file_probabilities, file_row, timed

NUM_WARMUP = 10
NUM_RUNS = 200


def quantize_model(
    path: Path,
    *,
    data: Path | None,
    recipes: list[str],
    out: Path | None,
    max_drop: float | None,
    pixels: Pixels | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Convert a model by some recipes and measure each file.

    Calibrated on the training part of `data`, chosen on the validation part, scored on the test
    part.

    Args:
        recipes: `int8` stands for `tflite.int8`.
        out: where the files go; beside the model where None.
        max_drop: choose the fastest file within this drop of validation top-1.

    Returns:
        Rows as in report.json, and the choice (None without `max_drop`).

    Raises:
        UserError: a name, the model or the folder does not fit.
    """
    pixels = pixels or OWN_PIXELS
    choices = [_choice(name) for name in dict.fromkeys(recipes)]
    if data is None:
        raise UserError("--data is missing: a folder of class folders to calibrate and score on.")
    model = load_model(path)
    image_size_of(model)
    splits = scan_folder(data)
    num_classes = max(model.output_shape[-1], 2)  # one score tells two classes apart
    if num_classes != len(splits["train"].classes):
        raise UserError(
            f"{path} answers with {num_classes} classes, and {data} has "
            f"{len(splits['train'].classes)} folders. Give a folder with one folder per class."
        )
    folder = out or path.parent
    probs = {
        split: model_probabilities(model, splits[split], name=f"{path.stem} {split}", pixels=pixels)
        for split in ("validation", "test")
    }
    facts = {}
    for choice in choices:
        file = folder / file_name(path.stem, choice.name)
        facts[file] = _written(model, file, choice, path.stem, splits["train"], pixels)
    return _measured(facts, splits, probs, pixels, max_drop)


def _choice(name: str) -> Choice:
    full = name if "." in name else f"tflite.{name}"
    return Choice(name=full, options=RECIPES.check(full, {}))


def _written(
    model: Any, file: Path, choice: Choice, source: str, examples: Examples, pixels: Pixels
) -> dict[str, Any]:
    """Write one file and its manifest; returns what the manifest says."""

    def build() -> tuple[list[Path], dict[str, Any]]:
        facts = write_file(model, file, choice, source=source, examples=examples, pixels=pixels)
        return [file], facts

    manifest = file.with_name(file.name + ".json")
    if file.exists() and not manifest.exists():
        raise UserError(
            f"{file} exists and Potstill did not write it. Move it away, or name a folder "
            "with --out."
        )
    inputs = {"source": source, "recipe": choice.model_dump(mode="json")}
    return make_artifact(manifest, inputs, build)


def _measured(
    facts: dict[Path, dict[str, Any]],
    splits: dict[str, Examples],
    probs: dict[str, Any],
    pixels: Pixels,
    max_drop: float | None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    photos = {s: Photos(s, splits[s].paths, splits[s].labels) for s in ("validation", "test")}
    latency = timed(list(facts), num_threads=1, num_warmup=NUM_WARMUP, num_runs=NUM_RUNS)
    rows, validation_top1 = [], {}
    for file, some in facts.items():
        seen = {
            split: file_probabilities(file, photos[split], num_threads=1, pixels=pixels)
            for split in photos
            if split == "test" or max_drop is not None
        }
        if max_drop is not None:
            validation_top1[file.name] = _top1(seen["validation"], photos["validation"])
        row = file_row(
            file,
            facts=some,
            probs=seen["test"],
            photos=photos["test"],
            reference=Reference(source=probs["test"], student=probs["test"]),
            latency=[latency[file]],
        )
        rows.append(row)
    if max_drop is None:
        return rows, None
    verdict = choose(
        rows,
        validation_top1=validation_top1,
        student_validation_top1=_top1(probs["validation"], photos["validation"]),
        max_drop=max_drop,
    )
    return rows, verdict


def _top1(probs: Any, photos: Photos) -> float:
    return float((probs.argmax(axis=1) == photos.labels).mean())
