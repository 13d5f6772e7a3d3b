"""Trainings in phases, in 16 bits and with other optimizers end the same after a kill."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from configs.schema.choice import Choice
from distill.backbones import HEAD
from distill.losses import distillation_objective
from distill.training import epochs
from distill.training.epochs import Phase, Schedule
from distill.training.fit import fit
from distill.training.precision import computing_in
from distill.training.strategies.layers import ALL, HEAD_ONLY, Top, rate_factors, train_only

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (24, 8, 8, 3)).astype("float32")
LABELS = (IMAGES.mean(axis=(1, 2, 3)) > 127).astype("int32")
ONE_HOT = np.eye(2, dtype="float32")[LABELS] * (np.arange(24) % 3 > 0)[:, None]
TARGETS = np.hstack([ONE_HOT, RNG.normal(0, 2, (24, 2))]).astype("float32")
NUM_EPOCHS, NUM_STEPS = 4, 4


class Killed(Exception):
    pass


def tiny_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, -1)(image)
    for number in range(2):
        x = layers.Conv2D(6, 3, strides=2, padding="same", name=f"conv{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"bn{number}")(x))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(2, name=HEAD)(x))


def batches(epoch: int, step: int, kill_at: tuple[int, int] | None) -> tf.data.Dataset:
    def all_steps():
        for number in range(epoch, 100):
            order = np.random.default_rng(number).permutation(24)
            for place in range(step if number == epoch else 0, NUM_STEPS):
                if (number, place) == kill_at:
                    raise Killed
                rows = order[6 * place : 6 * place + 6]
                yield IMAGES[rows], TARGETS[rows]

    shapes = (tf.TensorSpec((6, 8, 8, 3)), tf.TensorSpec((6, 4)))
    return tf.data.Dataset.from_generator(all_steps, output_signature=shapes)


def phases_of(model: keras.Model, tops: list[Top]) -> list[Phase]:
    ends = [NUM_EPOCHS * number // len(tops) for number in range(1, len(tops) + 1)]

    def begin(top: Top) -> None:
        train_only(model, top, freeze_batchnorm=True)

    return [
        Phase(end, rate=0.3**number, begin=lambda top=top: begin(top))
        for number, (top, end) in enumerate(zip(tops, ends, strict=True))
    ]


def train(
    path: Path,
    *,
    tops: list[Top],
    kill_at: tuple[int, int] | None = None,
    precision: str = "float32",
    **schedule,
) -> tuple[keras.Model, list]:
    model = tiny_model()
    with computing_in(precision, model):
        history = fit(
            model,
            train=lambda epoch, step: batches(epoch, step, kill_at),
            validation=lambda: iter([(IMAGES, LABELS)]),
            objective=distillation_objective("kd", {}, soft_weight=0.5, label_smoothing=0.0),
            schedule=Schedule(
                NUM_EPOCHS, NUM_STEPS, 0.02, 1e-4, scales_loss=precision == "float16", **schedule
            ),
            checkpoint=path,
            name="tiny",
            phases=phases_of(model, tops),
        )
    return model, history


PROGRESSIVE = [HEAD_ONLY, Top(stages=1), ALL]
SGD = Choice(name="sgd", options={"nesterov": True})


@pytest.mark.parametrize(
    "seconds_between_checkpoints", [300.0, pytest.param(0.0, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "settings",
    [
        {"tops": PROGRESSIVE, "ema_momentum": 0.8},
        {"tops": PROGRESSIVE, "patience": 2, "optimizer": SGD, "clip_norm": 1.0},
        pytest.param(
            {"tops": [ALL], "curve": Choice(name="one_cycle"), "precision": "bfloat16"},
            marks=pytest.mark.slow,  # float16 is the harder one: its loss is scaled
        ),
        {"tops": [Top(stages=1)], "precision": "float16", "ema_momentum": 0.8},
    ],
    ids=["progressive", "sgd", "bfloat16", "float16"],
)
def test_a_kill_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict,
    seconds_between_checkpoints: float,
) -> None:
    monkeypatch.setattr(epochs, "SECONDS_BETWEEN_CHECKPOINTS", seconds_between_checkpoints)
    undisturbed, history = train(tmp_path / "a.npz", **settings)
    for kill_at in [(0, 2), (1, 0), (2, 3)]:
        with pytest.raises(tf.errors.UnknownError):
            train(tmp_path / "b.npz", kill_at=kill_at, **settings)
    resumed, resumed_history = train(tmp_path / "b.npz", **settings)
    assert [row.epoch for row in resumed_history] == [row.epoch for row in history]
    for array, expected in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        assert array.dtype == np.float32 or array.dtype.kind in "iu"
        # float32 sums in another order, over a dozen updates; 16 bits round them further apart
        tolerance = 1e-5 if settings.get("precision") is None else 2e-3
        assert np.allclose(array, expected, atol=tolerance)
    # It ended before: the same model comes back.
    again, _ = train(tmp_path / "b.npz", **settings)
    for array, expected in zip(again.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(array, expected)


def test_layers_learn_from_their_phase_on(tmp_path: Path) -> None:
    start = tiny_model().get_weights()
    names = [variable.path for variable in tiny_model().weights]

    def moved(model: keras.Model) -> set[str]:
        arrays = zip(names, start, model.get_weights(), strict=True)
        return {
            name.split("/")[0]
            for name, before, after in arrays
            if "seed" not in name and not np.array_equal(before, after)
        }

    head_only, _ = train(tmp_path / "a.npz", tops=[HEAD_ONLY])
    assert moved(head_only) == {HEAD}
    upper, _ = train(tmp_path / "b.npz", tops=[HEAD_ONLY, Top(stages=1)])
    assert moved(upper) == {HEAD, "conv1"}
    everything, _ = train(tmp_path / "c.npz", tops=PROGRESSIVE)
    assert moved(everything) == {HEAD, "conv0", "conv1"}  # BatchNormalization stays


def test_patience_counts_in_the_last_phase_only(tmp_path: Path) -> None:
    tops = [HEAD_ONLY, ALL]
    _, history = train(tmp_path / "a.npz", tops=tops, patience=1, optimizer=SGD)
    assert len(history) > 2  # both phases began, however bad the first was


def test_rate_decay_slows_the_lower_layers(tmp_path: Path) -> None:
    model = tiny_model()
    before = dict(zip([v.path for v in model.weights], model.get_weights(), strict=True))
    train_only(model, ALL, freeze_batchnorm=True)
    phase = Phase(NUM_EPOCHS, factors=rate_factors(model, 0.01))
    fit(
        model,
        train=lambda epoch, step: batches(epoch, step, None),
        validation=lambda: iter([(IMAGES, LABELS)]),
        objective=distillation_objective("kd", {}, soft_weight=0.5, label_smoothing=0.0),
        schedule=Schedule(NUM_EPOCHS, NUM_STEPS, 0.01, 0.0),
        checkpoint=tmp_path / "a.npz",
        name="tiny",
        phases=[phase],
    )
    after = dict(zip([v.path for v in model.weights], model.get_weights(), strict=True))
    # Adam moves every weight by about the rate, so distances are as the factors.
    way = {name: np.abs(after[name] - before[name]).mean() for name in before if "kernel" in name}
    assert way["conv1/kernel"] < 0.05 * way[f"{HEAD}/kernel"]
    assert way["conv0/kernel"] < 0.05 * way["conv1/kernel"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_layers_compute_in_16_bits_and_are_float32_again(precision: str) -> None:
    model = tiny_model()
    exact = np.asarray(model(IMAGES, training=False))
    kinds: dict[str, str] = {}

    def record(layer, name):
        call = layer.call

        def recorded(x, *args, **kwargs):
            kinds[name] = keras.backend.standardize_dtype(x.dtype)
            return call(x, *args, **kwargs)

        layer.call = recorded

    for layer in model.layers[1:]:
        record(layer, layer.name)
    with computing_in(precision, model):
        rounded = np.asarray(model(IMAGES, training=False))
    assert kinds["conv0"] == kinds["conv1"] == kinds["bn1"] == precision
    assert kinds["rescaling" if "rescaling" in kinds else model.layers[1].name] == "float32"
    assert kinds[HEAD] == "float32"
    assert 0 < np.abs(rounded - exact).max() < 0.05  # 8 bits of mantissa, twice
    assert np.array_equal(np.asarray(model(IMAGES, training=False)), exact)
    assert {str(layer.dtype_policy.name) for layer in model.layers} == {"float32"}
