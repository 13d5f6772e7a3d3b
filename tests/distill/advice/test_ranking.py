"""Backbones ranked by real pretrained features, and what cannot be ranked."""

from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from distill.advice.ranking import Candidate, candidate_names, rank
from distill.data.manifest import Examples
from support import save_photo


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["efficientnet_lite9"], "Did you mean"),
        (["efficientnet_lite4"], "no published ImageNet weights"),
        (["xception"], "needs images of 71 px"),
    ],
)
def test_what_cannot_be_ranked_is_named(names: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        candidate_names(names, 64)


def test_backbones_whose_weights_are_here_are_compared_by_default() -> None:
    assert {f"efficientnet_lite{n}" for n in range(3)} <= set(candidate_names([], 224))


def examples(folder: Path, first: int) -> Examples:
    """Two classes that a network tells apart at once: smooth photos, and fine stripes."""
    paths, labels = [], []
    for number in range(first, first + 12):
        path = save_photo(folder / f"{number}.png", seed=number, size=(32, 32))
        if number % 2:
            from PIL import Image

            pixels = np.asarray(Image.open(path)).copy()
            pixels[:, ::2] = 255 - pixels[:, ::2]
            Image.fromarray(pixels).save(path)
        paths.append(path)
        labels.append(number % 2)
    ids = [f"{number:016x}" for number in range(first, first + 12)]
    return Examples(ids, paths, np.array(labels, "int32"), ["smooth", "striped"])


def test_pretrained_features_are_scored_and_a_random_network_beside_them(tmp_path: Path) -> None:
    train, validation = examples(tmp_path / "train", 0), examples(tmp_path / "validation", 100)
    (best,) = rank(["efficientnet_lite0"], train, validation, image_size=32)
    assert isinstance(best, Candidate)
    assert best.probe_top1 >= 0.9
    assert 0 <= best.random_probe_top1 <= 1
    assert best.leep is not None
    assert best.leep < 0
    assert best.num_macs is not None


def test_features_that_are_no_better_than_random_ones_are_warned_of(
    tmp_path: Path, warnings: list[str]
) -> None:
    train, validation = examples(tmp_path / "train", 0), examples(tmp_path / "validation", 100)
    # Labels that no feature explains: both probes guess.
    train.labels[:] = [0, 0, 1, 1] * 3
    validation.labels[:] = 0
    (only,) = rank(["efficientnet_lite0"], train, validation, image_size=32)
    warned = any("Pretrained weights may do harm" in text for text in warnings)
    assert warned == (only.probe_top1 <= only.random_probe_top1)
