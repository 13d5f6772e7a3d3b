import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema import ViewsConfig
from distill.data import scan_folder
from distill.inputs import steps_per_epoch, training_batches, view_source
from distill.views import training_view

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def view_of(
    photo: np.ndarray = PHOTO,
    *,
    example_id: int = 7,
    view: int = 0,
    seed: int = 1,
    crop: tuple[float, float] = (0.3, 0.9),
    flip: bool = True,
    image_size: int = 16,
) -> np.ndarray:
    return training_view(
        tf.constant(photo),
        example_id=tf.constant(example_id, tf.int64),
        view=tf.constant(view, tf.int64),
        seed=seed,
        crop=crop,
        flip=flip,
        image_size=image_size,
    ).numpy()


def test_the_same_view_is_the_same_pixels() -> None:
    assert np.array_equal(view_of(), view_of())


@pytest.mark.parametrize(
    "change", [{"example_id": 8}, {"view": 1}, {"seed": 2}, {"example_id": 7 + 2**40}]
)
def test_another_example_view_or_seed_is_another_view(change: dict) -> None:
    assert not np.array_equal(view_of(), view_of(**change))


def test_the_same_view_comes_out_of_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_views import view_of; sys.stdout.buffer.write(view_of().tobytes())"
    )
    here = str(Path(__file__).parent)
    result = subprocess.run([sys.executable, "-c", code, here], capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(result.stdout, "float32").reshape(16, 16, 3), view_of())


def test_two_sizes_show_the_same_crop() -> None:
    # A photo that is a ramp: the mean colour tells where the crop was.
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None, None], (240, 240, 3)).copy()
    for view in range(8):
        small, large = (
            view_of(ramp, view=view, image_size=16),
            view_of(ramp, view=view, image_size=48),
        )
        assert small.mean() == pytest.approx(large.mean(), abs=0.5)  # half a grey level


def test_a_crop_of_everything_without_flip_keeps_a_constant_photo() -> None:
    grey = np.full((20, 20, 3), 99, np.uint8)
    assert np.allclose(view_of(grey, crop=(1.0, 1.0), flip=False), 99, atol=1e-3)  # resampling


def test_half_of_the_views_are_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    views = [view_of(ramp, view=view) for view in range(200)]
    mirrored = sum(image[:, 0].mean() > image[:, -1].mean() for image in views)
    assert 70 <= mirrored <= 130  # 100 expected, four standard deviations are 28


@pytest.fixture
def source(photo_folder: Path):
    examples = scan_folder(photo_folder)["train"]
    views = ViewsConfig(crop=(0.5, 1.0))
    return view_source(examples, views=views, num_views=2, seed=1, largest_image=16)


def epoch_images(source, *, batch_size: int, initial_epoch: int, epochs: int, **more) -> np.ndarray:
    batches = training_batches(
        source,
        image_size=16,
        batch_size=batch_size,
        initial_epoch=initial_epoch,
        epochs=epochs,
        **more,
    )
    return np.concatenate([images for images, _ in batches])


def test_a_resumed_run_sees_what_the_undisturbed_one_sees(source) -> None:
    whole = epoch_images(source, batch_size=4, initial_epoch=0, epochs=3)
    rest = epoch_images(source, batch_size=4, initial_epoch=2, epochs=3)
    assert np.array_equal(whole[-len(rest) :], rest)


def test_epochs_have_orders_of_their_own_and_views_take_turns(source) -> None:
    size = len(source.examples)
    epochs = [
        epoch_images(source, batch_size=size, initial_epoch=e, epochs=e + 1) for e in range(3)
    ]
    assert not np.array_equal(epochs[0], epochs[2])

    def in_order(images: np.ndarray) -> np.ndarray:
        return np.sort(images.reshape(size, -1).sum(axis=1))

    # Two views: the third epoch shows the first one's again, in another order.
    assert np.array_equal(in_order(epochs[0]), in_order(epochs[2]))
    assert not np.array_equal(in_order(epochs[0]), in_order(epochs[1]))


def test_soft_labels_arrive_with_the_view_they_are_of(source) -> None:
    size, classes = len(source.examples), len(source.examples.classes)
    labels = np.arange(size * 2 * classes, dtype="float16").reshape(size, 2, classes)
    seen = training_batches(
        source, image_size=16, batch_size=3, initial_epoch=1, epochs=2, soft_labels=labels
    )
    batches = list(seen)
    assert len(batches) == steps_per_epoch(size, 3)
    targets = np.concatenate([targets for _, targets in batches])
    rows = (targets[:, classes] / (2 * classes)).astype(int)  # which example a label is of
    assert np.array_equal(targets[:, classes:], labels[rows, 1])
    assert np.array_equal(targets[:, :classes].argmax(1), source.examples.labels[rows])
