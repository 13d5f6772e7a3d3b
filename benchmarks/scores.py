"""Whether the scores of shipped files mean what they say, on photos that chose nothing.

    python benchmarks/scores.py runs/quickstart runs/cats
    python benchmarks/scores.py runs/flowers --others ../shared/data/cats_and_dogs

For the int8 file of each finished run: its calibration error beside those of its control with and
without the control's own temperature; and what its threshold accepts of the test photos. With
`--others`, also what it accepts of photos that show none of its classes; without a threshold all of
them get a class. Intervals are 95 %, over photos.
"""

import argparse
from pathlib import Path

import numpy as np

from configs.artifacts import read_json
from configs.records import from_json
from configs.run_dir import RunDir
from distill.data.manifest import load_examples
from distill.trained.ship import shipped_of
from eval.scoring.calibration import (
    calibration_gaps,
    expected_calibration_error,
    tempered,
)
from eval.scoring.intervals import wilson_interval
from eval.scoring.predictions import Photos, file_probabilities, load_predictions
from eval.scoring.threshold import Threshold, accepted_photos

NUM_SAMPLES = 2000


def difference_interval(
    one: np.ndarray, other: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """The 95 % interval of ECE(one) - ECE(other), by resampling the photos in pairs."""
    rng = np.random.default_rng(0)
    gaps = [calibration_gaps(probs, labels) for probs in (one, other)]
    differences = []
    for _ in range(NUM_SAMPLES):
        chosen = rng.integers(len(labels), size=len(labels))
        first, second = (np.abs(of_file[chosen].mean(axis=0)).sum() for of_file in gaps)
        differences.append(first - second)
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def percent(*shares: float) -> str:
    return " to ".join(f"{100 * share:.1f}" for share in shares)


def report(run: RunDir, others: Path | None) -> None:
    """Print the figures of one run."""
    path = run.file(f"{shipped_of(run).model}-int8.tflite")
    labels = load_examples(run, "test").labels
    file = load_predictions(run, path.name)["test"]
    control = load_predictions(run, "control")["test"]
    temperature = read_json(run.model_dir("control") / "temperature.json")["temperature"]
    print(f"\n{run.path.name}: {path.name}, {len(labels)} test photos")
    print(f"- calibration error {percent(expected_calibration_error(file, labels))} %")
    for name, probs in (
        ("the control as it would ship", control),
        ("the control without its temperature", tempered(control, temperature)),
    ):
        error = expected_calibration_error(probs, labels)
        low, high = difference_interval(file, probs, labels)
        print(f"- {name}: {percent(error)} %; file minus control {percent(low, high)} points")
    stored = read_json(path.with_name(path.name + ".json")).get("threshold")
    if stored is None:
        print("- no threshold")
        return
    threshold = from_json(Threshold, stored)
    accepted = accepted_photos(threshold, file, labels)
    if accepted.accuracy is not None and accepted.accuracy_low is not None:
        low, high = accepted.accuracy_low, float(accepted.accuracy_high or 1)
        print(
            f"- threshold {threshold.score:.3f} accepts {percent(accepted.coverage)} % of the test "
            f"photos; {percent(accepted.accuracy)} % of them are right ({percent(low, high)})"
        )
    if others is not None:
        paths = sorted(p for p in others.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
        photos = Photos("others", paths, np.full(len(paths), -1))
        scores = file_probabilities(path, photos, num_threads=2).max(axis=1)
        num_accepted = int((scores >= threshold.score).sum())
        low, high = wilson_interval(num_accepted, len(paths))
        print(
            f"- of {len(paths)} photos of {others.name} it accepts "
            f"{percent(num_accepted / len(paths))} % ({percent(low, high)})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs with an int8 TFLite file")
    parser.add_argument("--others", type=Path, help="photos that show none of the classes")
    options = parser.parse_args()
    for path in options.runs:
        report(RunDir(path.resolve()), options.others)


if __name__ == "__main__":
    main()
