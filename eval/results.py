"""The measured rows of a report: what files answer and how long they take."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.progress import track
from configs.run_dir import RunDir, Step, file_sha256, read_json, whole_file
from eval.accuracy import OWN_PIXELS, Pixels, accuracy, compare, predict_file
from eval.devices import device_label
from eval.footprint import file_bytes, zip_bytes
from eval.images import evaluation_batches
from eval.latency import measure
from eval.machine import machine
from eval.probe import open_model
from eval.rounds import RUNS_PER_ROUND, Journal

BATCH_SIZE = 32
NEEDS_SOURCE = (
    "agreement_with_source", "num_flips", "drop_vs_source", "drop_low", "drop_high",
    "drop_vs_student", "mcnemar_p", "confidence_drift", "confidence_drift_low",
    "confidence_drift_high", "probability_moved", "half_point_power", "detectable_drop",
)  # fmt: skip
RAW_LATENCY = "times_ms"
MACHINE = ("cpu", "num_cores", "isa", "os", "python")
"""What `machine` of report.json takes from the state of the device that files were timed on."""


@dataclass(frozen=True)
class Photos:
    """One split, as the results need it: files and class indices."""

    split: str
    paths: list[Path]
    labels: np.ndarray


def file_probabilities(
    path: Path, photos: Photos, *, num_threads: int, pixels: Pixels = OWN_PIXELS
) -> np.ndarray:
    """Probabilities of one file on one split, float32 (examples, classes)."""
    size = open_model(path, num_threads).input_shape[:2]
    batches = evaluation_batches(photos.paths, size, BATCH_SIZE)
    with track(f"{path.name}: {photos.split}", len(photos.paths)) as advance:
        return predict_file(path, batches, pixels, num_threads, advance)


def file_predictions_step(
    run: RunDir, path: Path, splits: list[Photos], *, num_threads: int
) -> Step:
    """What one file of the run says of the validation and test photos."""
    target = run.predictions(path.name)
    inputs = {"photos": file_sha256(run.photos_manifest), "file": file_sha256(path)}

    def build() -> tuple[list[Path], dict[str, Any]]:
        probs = {s.split: file_probabilities(path, s, num_threads=num_threads) for s in splits}
        with whole_file(target) as unfinished:
            np.savez(unfinished, **probs)  # type: ignore[arg-type]
        return [target], {}

    manifest = target.with_name(target.name.removesuffix(".npz") + ".json")
    return Step(f"predictions of {path.name}", manifest, inputs, build)


def load_predictions(run: RunDir, name: str) -> dict[str, np.ndarray]:
    """Probabilities by split, as a predictions step wrote them."""
    with np.load(run.predictions(name)) as stored:
        return {split: stored[split] for split in stored.files}


def latency_step(
    run: RunDir,
    files: list[Path],
    *,
    device: str,
    options: dict[str, Any],
    num_threads: int,
    num_warmup: int,
    num_runs: int,
) -> Step:
    """Time the files of the run on one device: results/latency-<device>.json, raw times kept."""
    label = device_label(device, options)
    path = latency_path(run, label)
    inputs = {
        "files": {file.name: file_sha256(file) for file in files},
        "device": device_inputs(device, options),
        "runs": [num_threads, num_warmup, num_runs, RUNS_PER_ROUND],
    }
    journal = Journal(path.with_suffix(".rounds"), json.dumps(inputs, sort_keys=True))

    def build() -> tuple[list[Path], dict[str, Any]]:
        rows = timed(
            files,
            device=device,
            options=options,
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=journal,
        )
        # The packages that made the files are those of here, whatever runs them.
        told = next(iter(rows.values()))["state"]
        where = machine() | {key: told[key] for key in MACHINE if key in told}
        return [], {"machine": where, "latency": {file.name: row for file, row in rows.items()}}

    return Step(f"latency on {label}", path, inputs, build, journal.forget)


def device_inputs(device: str, options: dict[str, Any]) -> dict[str, Any]:
    """What of a device a measurement depends on, as JSON values."""
    kept = {key: value for key, value in options.items() if key != "wheels"}
    tool = Path(str(options.get("benchmark_model")))
    return {
        "name": device,
        **kept,
        "tool": file_sha256(tool) if tool.is_file() else None,
        "host": machine() if device == "local" else None,
    }


def timed(
    files: list[Path],
    *,
    device: str = "local",
    options: dict[str, Any] | None = None,
    num_threads: int,
    num_warmup: int,
    num_runs: int,
    journal: Journal | None = None,
) -> dict[Path, dict[str, Any]]:
    """Latency rows by file, the raw times in each."""
    with track(
        f"latency on {device_label(device, options or {})}", (len(set(files)) + 1) * num_runs
    ) as advance:
        return measure(
            files,
            device=device,
            options=options or {},
            num_threads=num_threads,
            num_warmup=num_warmup,
            num_runs=num_runs,
            journal=journal,
            progress=advance,
        )


def load_latency(
    run: RunDir, devices: list[str], files: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """The latency rows of each file by device, without their raw times.

    The first row of every file is of one device, so that first rows can be compared: the first
    that timed all of `files`, else the first; what was not timed there has no rows. A row of a file
    that was written anew since is left out.
    """
    by_file: dict[str, list[dict[str, Any]]] = {}
    for device in devices:
        path = latency_path(run, device)
        stored = read_json(path) if path.exists() else {"latency": {}}
        for name, row in stored["latency"].items():
            file = run.file(name)
            if file.exists() and stored["inputs"]["files"][name] == file_sha256(file):
                by_file.setdefault(name, []).append(_without_raw(row))
    on = {
        device: {n for n in files for row in by_file.get(n, []) if row["device"] == device}
        for device in devices
    }
    first = next((device for device in devices if on[device] == set(files)), devices[0])
    return {
        name: sorted(rows, key=lambda row: row["device"] != first)
        for name, rows in by_file.items()
        if name in on[first]
    }


def latency_path(run: RunDir, device: str) -> Path:
    """Where the times of one device are kept; `device` as `device_label` calls it."""
    return run.path / "results" / f"latency-{file_part(device)}.json"


def file_part(label: str) -> str:
    """A device's label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "-", label)


def _without_raw(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != RAW_LATENCY}


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: probabilities on the photos it is scored on, or None."""

    source: np.ndarray | None = None
    student: np.ndarray | None = None
    teacher: np.ndarray | None = None


def file_row(
    path: Path,
    *,
    facts: dict[str, Any],
    probs: np.ndarray,
    photos: Photos,
    reference: Reference,
    latency: list[dict[str, Any]],
) -> dict[str, Any]:
    """One entry of `files` in report.json.

    Args:
        facts: recipe and source, as the file's manifest or metadata gives them.
        latency: rows with or without their raw times; those are left out.
    """
    scores = accuracy(probs, photos.labels, split=photos.split, teacher_probs=reference.teacher)
    against: dict[str, Any] = dict.fromkeys(NEEDS_SOURCE)
    if reference.source is not None:
        against = compare(probs, reference.source, photos.labels, student_probs=reference.student)
    return {
        "name": path.name,
        "path": str(facts.get("path", path)),
        "format": path.suffix[1:],
        "recipe": facts.get("recipe"),
        "source": facts.get("source"),
        "file_bytes": file_bytes(path),
        "zip_bytes": facts.get("zip_bytes") or zip_bytes(path),
        "parity": _parity(probs, reference.source) if _is_float(facts) else None,
        "accuracy": {**scores, **against},
        "latency": [_without_raw(row) for row in latency],
    }


def _is_float(facts: dict[str, Any]) -> bool:
    return str(facts.get("recipe") or "").endswith(("float32", "float16"))


def _parity(probs: np.ndarray, source_probs: np.ndarray | None) -> dict[str, Any] | None:
    """How far a float file is from the Keras model it came from, over all test photos."""
    if source_probs is None:
        return None
    return {
        "max_abs_diff": float(np.abs(probs - source_probs).max()),
        "argmax_equal": int((probs.argmax(1) == source_probs.argmax(1)).sum()),
        "n": len(probs),
    }
