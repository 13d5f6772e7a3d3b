"""A contract is tried on photos, and a better one is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.contract import RANGES, InputContract
from configs.errors import UserError
from eval.contract.alternatives import alternatives, options_between
from eval.contract.settle import settle_by_trial, with_answers
from eval.contract.trial import trial_photos

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@pytest.fixture
def photos(tmp_path: Path):
    """Twenty photos of each colour; the left and right quarter of each are grey."""
    paths, names = [], []
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for i in range(20):
            pixels = np.full((8, 16, 3), 128.0)
            pixels[:, 4:12] = np.array(colour) + rng.normal(0, 10, 3)
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(path)
            paths.append(path)
            names.append(name)
    return trial_photos(paths, names)


def nearest_colour(own: InputContract, order: list[str] | None = None):
    """A model that names the nearest of the colours, and takes pixels as `own` says."""
    names = order or sorted(COLOURS)
    # How the mean colour of a photo looks to a model that is fed as it expects.
    fed = own.apply(np.array([[COLOURS[name] for name in names]], "uint8"))[0]

    def predict(images: np.ndarray, tried: InputContract) -> np.ndarray:
        means = tried.apply(images)[:, 2:6, 2:6].mean(axis=(1, 2))
        distances = np.linalg.norm(means[:, None] - fed[None], axis=2)
        # What looks like none of the colours is called by the first name.
        is_far = distances.min(axis=1) > np.linalg.norm(fed[0] - fed[1]) / 2
        distances[is_far, 0] = 0
        return -distances

    return predict


def settled(predict, photos, contract=None, *, automatic=False) -> InputContract:
    return settle_by_trial(
        predict, (8, 8), photos, contract or InputContract(), model="m", automatic=automatic
    )


@pytest.mark.parametrize(
    ("own", "option"),
    [
        (InputContract(pixels=RANGES["0..1"]), "--pixels 0..1"),
        (InputContract(pixels=RANGES["-1..1"]), "--pixels -1..1"),
        (InputContract(channels="bgr"), "--channels bgr"),
    ],
)
def test_a_wrong_contract_is_warned_about_and_a_right_one_found(
    own: InputContract, option: str, photos, warnings: list[str]
) -> None:
    predict = nearest_colour(own)
    assert settled(predict, photos).pixels == RANGES["0..255"]
    assert len(warnings) == 1
    assert (
        f"With {option} it is right on 60 of 60 (100%). Type {option} instead, or --contract auto."
        in warnings[0]
    )
    taken = settled(predict, photos, automatic=True)
    assert (taken.pixels, taken.channels) == (own.pixels, own.channels)
    assert set(taken.stated_by) >= {"answers"}
    assert len(warnings) == 1


def test_a_right_contract_gets_no_word_and_its_answers_a_kind(photos, warnings: list[str]) -> None:
    contract = settled(nearest_colour(InputContract()), photos)
    assert contract == InputContract(answers="logits")
    assert warnings == []


def test_the_order_of_labels_is_tried(photos, warnings: list[str]) -> None:
    names = ["green", "red", "blue"]
    contract = InputContract(labels=tuple(names))
    taken = settled(nearest_colour(InputContract()), photos, contract, automatic=True)
    assert taken.labels == ("blue", "green", "red")
    settled(nearest_colour(InputContract()), photos, contract)
    assert "Type --labels alphabetical" in warnings[0]


def test_any_other_order_is_only_reported(photos, warnings: list[str]) -> None:
    order = ["red", "blue", "green"]
    taken = settled(nearest_colour(InputContract(), order), photos, automatic=True)
    assert taken.labels is None
    assert any(
        "in another order: red, blue, green. In this order it is right on 30 of 30" in m
        for m in warnings
    )


def test_chance_is_said(photos, warnings: list[str]) -> None:
    def guess(images: np.ndarray, tried: InputContract) -> np.ndarray:
        return np.eye(3, dtype="float32")[np.zeros(len(images), int)] * 9 - 3

    settled(guess, photos)
    assert "is right on 20 of 60 (33%) of your training and validation photos" in warnings[0]
    assert "which may be chance" in warnings[0]


@pytest.fixture
def wide_photos(tmp_path: Path):
    """Sixty photos, twice as wide as high, whose classes show at their left and right ends."""
    paths, names = [], []
    for i in range(60):
        name = ("dark", "light")[i % 2]
        pixels = np.full((8, 16, 3), 128, "uint8")
        pixels[:, :3] = pixels[:, -3:] = 250 if name == "light" else 5
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
        names.append(name)
    return trial_photos(paths, names)


def test_the_fit_is_tried(wide_photos, warnings: list[str]) -> None:
    def edges(images: np.ndarray, tried: InputContract) -> np.ndarray:
        edge = images[:, :, 0].mean(axis=(1, 2)) / 255
        return np.stack([1 - edge, edge], axis=1)

    settled(edges, wide_photos)
    assert "With --fit stretch it is right on 60 of 60 (100%)" in warnings[0]


def test_of_two_fits_with_the_same_answers_the_surer_one_is_named(
    wide_photos, warnings: list[str]
) -> None:
    def of_padded(images: np.ndarray, tried: InputContract) -> np.ndarray:
        """Half of the left edge is black in padded photos, and this model learned from these."""
        edge = images[:, :, 0].mean(axis=(1, 2)) / 255
        light = np.where(edge < 0.25, 0.05, 1 - 0.45 * np.abs(2 * edge - 1))
        return np.stack([1 - light, light], axis=1)

    settled(of_padded, wide_photos)
    assert "With --fit pad it is right on 60 of 60 (100%)" in warnings[0]


def test_the_classes_take_turns() -> None:
    paths = [Path(f"{i}") for i in range(200)]
    chosen = trial_photos(paths, ["a"] * 195 + ["b"] * 5)
    assert (chosen.names.count("a"), chosen.names.count("b")) == (15, 5)
    assert chosen.names[:4] == ["a", "b", "a", "b"]
    many = trial_photos([Path(f"{i}") for i in range(9000)], [f"{i % 900}" for i in range(9000)])
    assert len(many.paths) == 300


def test_a_model_that_names_one_class_is_at_chance_and_is_never_better(
    photos, warnings: list[str]
) -> None:
    """Nine photos in ten are of one class; who always says so is right on most."""
    mostly = trial_photos(
        [p for p, n in zip(photos.paths, photos.names, strict=True) if n != "red"],
        [n for n in photos.names if n != "red"],
    )
    few = [i for i, name in enumerate(mostly.names) if name == "green"][:5]
    many = [i for i, name in enumerate(mostly.names) if name == "blue"]
    kept = trial_photos([mostly.paths[i] for i in few + many], ["green"] * 5 + ["blue"] * 20)

    def always_first(images: np.ndarray, tried: InputContract) -> np.ndarray:
        return np.tile(np.array([[3.0, -3.0]], "float32"), (len(images), 1))

    settled(always_first, kept)
    assert "which may be chance" in warnings[0]


def test_noise_over_many_classes_does_not_look_permuted(tmp_path: Path, warnings) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(100):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8)).save(paths[-1])
    names = [f"class{i % 20:02}" for i in range(100)]

    def noise(images: np.ndarray, tried: InputContract) -> np.ndarray:
        return rng.normal(0, 1, (len(images), 20)).astype("float32")

    settled(noise, trial_photos(paths, names))
    assert not any("another order" in message for message in warnings)


@pytest.mark.parametrize(
    ("answers", "values", "says"),
    [
        ("probabilities", [[-5.0, 1.0]], "they go from -5 to 1"),
        ("scores", [[3.0, 0.0]], "they go from 0 to 3"),
        ("score", [[0.5, 0.5]], "there are 2. If they are"),
        ("logits", [[0.25, 0.75], [0.5, 0.5]], "they are probabilities"),
    ],
)
def test_answers_of_another_kind_than_stated_are_refused(answers, values, says) -> None:
    with pytest.raises(UserError, match=says):
        with_answers(InputContract(answers=answers), np.array(values, "float32"))


def test_a_suggestion_for_a_grey_model_has_one_number_for_its_mean() -> None:
    """`--pixels torch` has three, and a grey model would be refused with it."""
    grey = InputContract(channels="grey")
    others = alternatives(grey, ["a", "b"], lambda *_: True)
    words = [options_between(grey, other) for other in others]
    assert words == [
        "--pixels 0..1", "--pixels -1..1", "--mean 114.799 --std 1", "--mean 114.495 --std 57.63"
    ]  # fmt: skip
