"""The classifier on stored features learns what it learns through the frozen network."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from configs.resume import Workspace
from configs.schema.choice import Choice
from configs.schema.training import TrainingConfig
from configs.schema.views import ViewsConfig
from distill.backbones import HEAD
from distill.data.manifest import Examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource, evaluation_images
from distill.feature_losses import with_feature_loss
from distill.features import Head
from distill.labels import label_file
from distill.losses import distillation_objective
from distill.training.feature_student import FeatureGoal, FeatureStudent, feature_student
from distill.training.fit import fit
from distill.training.precision import computing_in
from distill.training.settings import make_schedule
from distill.training.strategies import STRATEGIES, Setting
from distill.training.strategies.lesson import TrainingJob, make_lesson
from distill.training.strategies.stored_features import cached_views
from support import save_photo

SIZE, NUM_VIEWS, NUM_PHOTOS = 16, 3, 20
NUM_FEATURES = 5  # of the teacher
PLAN = STRATEGIES["head"](setting=Setting(weights="imagenet"), num_views=NUM_VIEWS)


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    paths = [save_photo(tmp_path / f"{number}.png", seed=number) for number in range(NUM_PHOTOS)]
    labels = np.arange(NUM_PHOTOS) % 3 - 1  # a third has no label
    ids = [f"{number:016x}" for number in range(NUM_PHOTOS)]
    return Examples(ids=ids, paths=paths, labels=labels, classes=["cat", "dog"])


def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2)(layers.Rescaling(1 / 127.5, -1)(image))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(2, name=HEAD)(layers.Dropout(0.0)(x)))


def soft_labels(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
    numbers = np.stack([np.sin(indices + views), np.cos(indices * views)], axis=1)
    return numbers.astype("float32")


def alike(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
    return soft_labels(indices, 0 * views)


def with_features(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
    features = np.sin(np.outer(indices + views, np.arange(1, NUM_FEATURES + 1)))
    return np.hstack([soft_labels(indices, views), features]).astype("float32")


def job_of(examples: Examples, views: ViewsConfig, goal: FeatureGoal | None) -> TrainingJob:
    config = TrainingConfig(
        backbone=Choice(name="efficientnet_b0"),
        image_size=32,
        epochs=6,
        batch_size=8,
        learning_rate=0.05,
        ema_momentum=0.9,
        strategy=Choice(name="head"),
    ).model_copy(update={"image_size": SIZE})
    objective = distillation_objective("kd", {}, soft_weight=0.5, label_smoothing=0.0)
    if goal is not None:
        objective = with_feature_loss(objective, goal.loss, {}, num_classes=2)
    source = ViewSource(examples, PhotoStore(SIZE), views, NUM_VIEWS, seed=1)
    return TrainingJob(
        name="student",
        config=config,
        views=source,
        objective=objective,
        seed=1,
        soft_labels=with_features if goal else alike if views.crop is None else soft_labels,
        features=goal,
    )


def train(job: TrainingJob, folder: Path, *, cached: bool, precision: str = "float32"):
    """The trained head, (kernel, bias), and the history."""
    model = network()
    student = FeatureStudent(model, model)
    if job.features is not None:
        student = feature_student(model, job.features)
    plan = (
        PLAN if cached else STRATEGIES["progressive"](setting=Setting(None, epochs=6), shares=[0.0])
    )
    folder.mkdir()
    with computing_in(precision, model):
        lesson = make_lesson(
            job,
            plan,
            model,
            student,
            lambda: evaluation_images(job.views.examples.with_labels(), (SIZE, SIZE), 8),
            Workspace(folder),
        )
        history = fit(
            lesson.student.trained,
            classifier=lesson.student.classifier,
            train=lesson.train,
            validation=lesson.validation,
            objective=job.objective,
            schedule=make_schedule(job.config, plan, steps_per_epoch=2),
            checkpoint=folder / "epoch.npz",
            name="student",
            phases=lesson.phases,
        )
    layer = model.get_layer(HEAD) if student.projection is None else student.projection
    return layer.get_weights(), history


@pytest.mark.parametrize(
    "views",
    [
        ViewsConfig(),
        ViewsConfig(rotation=20, mixup=0.4),
        ViewsConfig(crop=None, flip=False),
    ],
    ids=["views", "mixed", "plain"],
)
def test_stored_features_train_the_same_head(
    examples: Examples, tmp_path: Path, views: ViewsConfig
) -> None:
    job = job_of(examples, views, None)
    stored, history = train(job, tmp_path / "stored", cached=True)
    through, expected = train(job, tmp_path / "through", cached=False)
    for array, other in zip(stored, through, strict=True):
        # Features are stored as float16: 11 bits.
        assert np.allclose(array, other, atol=5e-3)
    assert [row.val_loss for row in history] == pytest.approx(
        [row.val_loss for row in expected], abs=2e-3
    )
    num_views = np.load(tmp_path / "stored" / "features.npy").shape[1]
    assert num_views == (1 if views.crop is None else NUM_VIEWS)


def test_a_teachers_head_is_kept_on_stored_features(examples: Examples, tmp_path: Path) -> None:
    head = Head(np.ones((NUM_FEATURES, 2), "float32"), np.zeros(2, "float32"))
    job = job_of(examples, ViewsConfig(), FeatureGoal("simkd", NUM_FEATURES, head))
    keras.utils.set_random_seed(1)
    stored, _ = train(job, tmp_path / "stored", cached=True)
    through, _ = train(job, tmp_path / "through", cached=False)
    for array, other in zip(stored, through, strict=True):
        assert np.allclose(array, other, atol=5e-3)


def test_features_in_16_bits_train_a_head_of_float32(examples: Examples, tmp_path: Path) -> None:
    job = job_of(examples, ViewsConfig(), None)
    stored, _ = train(job, tmp_path / "stored", cached=True, precision="bfloat16")
    exact, _ = train(job, tmp_path / "exact", cached=True)
    for array, other in zip(stored, exact, strict=True):
        assert array.dtype == np.float32
        assert np.allclose(array, other, atol=0.1)


def test_a_killed_pass_through_the_network_continues(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    monkeypatch.setattr("distill.training.strategies.stored_features.ROWS_PER_CHUNK", 8)
    source = job_of(examples, ViewsConfig(), None).views
    model, path = network(), tmp_path / "features.npy"

    def features():
        return cached_views(model, source, path, image_size=SIZE, num_views=2).features

    whole = np.array(features())
    assert whole.shape == (NUM_PHOTOS, 2, 6)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # a kill within the second chunk
    assert np.array_equal(features(), whole)
    assert path.read_bytes() == content
