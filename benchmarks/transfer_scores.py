"""Do transfer scores rank features as a linear classifier does, and what does each of them take?

    python benchmarks/transfer_scores.py ../shared/data/flowers

Eight sets of features: EfficientNet-Lite0, 1 and 2 at 64 and 128 px, EfficientNetB0 with Lite's
kernels at 128 px, and Lite0 with random weights. `distill advise` scores features of 1,000 training
photos. The truth is a linear classifier that learns from all training photos and is measured on the
test photos. Times are those on the stored features; all of them need the features first. LEEP needs
the classifier of ImageNet, so it ranks the six pretrained Lites alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
from scipy.stats import spearmanr

from compress.config_choices import REGISTRIES
from configs.loading.experiment import load_experiment
from configs.resume import take_step
from configs.run_dir import RunDir
from distill.advice.ranking import MOST_PHOTOS, SOURCE_CLASSES
from distill.advice.transfer_scores import h_score, leep, logme
from distill.backbones import BACKBONES, HEAD
from distill.data.manifest import Examples, load_examples
from distill.data.scan import data_step
from distill.trained.answers import model_outputs
from distill.trained.linear_probe import linear_probe
from eval.scoring.probabilities import as_probabilities

CONFIG = Path(__file__).parents[1] / "configs" / "photos_lite.yaml"
LITES = [(f"efficientnet_lite{number}", size) for size in (64, 128) for number in range(3)]
OTHERS = [("efficientnet_b0", 128, "lite"), ("efficientnet_lite0", 128, None)]
SCORES = ("LogME", "H-score", "LEEP")


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """What a function returns, and its seconds."""
    start = time.perf_counter()
    value = call()
    return value, time.perf_counter() - start


def measure(
    name: str, size: int, weights: str | None, splits: dict[str, Examples]
) -> tuple[list[float], list[float]]:
    """Test top-1 of a linear classifier and the three scores; then the seconds of the four."""
    keras.utils.set_random_seed(1)
    some, train, test = splits.values()
    build = partial(BACKBONES[name], image_size=size, weights=weights)
    model = build(num_classes=len(train.classes))
    features = model_outputs(
        keras.Model(model.input, model.get_layer(HEAD).input), splits, name=name
    )

    def truth() -> float:
        probe = linear_probe(features["train"], train.labels)
        return float((probe.predict(features["test"]) == test.labels).mean())

    def of_classifier() -> float:
        logits = model_outputs(build(num_classes=SOURCE_CLASSES), {"some": some}, name=name)
        return leep(as_probabilities(logits["some"], "logits"), some.labels)

    results = [
        timed(truth),
        timed(lambda: logme(features["some"], some.labels)),
        timed(lambda: h_score(features["some"], some.labels)),
        timed(of_classifier) if weights == "imagenet" else (np.nan, np.nan),
    ]
    return [value for value, _ in results], [taken for _, taken in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder with a folder per class")
    folder = parser.parse_args().photos.resolve()
    experiment = load_experiment(CONFIG, REGISTRIES, [f"data.path={folder}", "data.test=0.4"])
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDir(Path(temporary))
        take_step(data_step(run, experiment.data))
        train, test = load_examples(run, "train"), load_examples(run, "test")
        splits = {"some": train.some(MOST_PHOTOS), "train": train, "test": test}
        rows, seconds = [], []
        for name, size, weights in [*((*lite, "imagenet") for lite in LITES), *OTHERS]:
            values, taken = measure(name, size, weights, splits)
            rows.append(values)
            seconds.append(taken)
            shown = "  ".join(f"{score} {value:.3f}" for score, value in
                              zip(SCORES, values[1:], strict=True))  # fmt: skip
            print(f"{name} {size} px, {weights}: top-1 {100 * values[0]:.1f}  {shown}", flush=True)
    table, times = np.array(rows), np.array(seconds)
    print("\n| score | rank correlation, all | pretrained Lites | seconds (median) |")
    print("|---|---|---|---|")
    print(f"| linear classifier | 1 | 1 | {np.median(times[:, 0]):.2f} |")
    for column, score in enumerate(SCORES, start=1):
        every, lites = (
            spearmanr(part[:, 0], part[:, column]).statistic
            for part in (table, table[: len(LITES)])
        )
        median = np.nanmedian(times[:, column])
        print(f"| {score} | {every:.2f} | {lites:.2f} | {median:.2f} |")


if __name__ == "__main__":
    main()
