import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.schema.views import ViewsConfig
from distill.data import views as views_module
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource, steps_per_epoch
from distill.data.scan import scan_folder
from distill.data.views import training_view
from distill.training.batches import training_batches

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


STRONG = {
    "crop": (0.3, 0.9),
    "vertical_flip": True,
    "rotation": 30,
    "shift": 0.1,
    "shear": 10,
    "zoom": 0.2,
    "brightness": 0.2,
    "contrast": 0.3,
    "saturation": 0.4,
    "hue": 0.1,
    "noise": 0.2,
    "erasing": 0.5,
}
# Each augmentation alone, strong enough that a view without it looks different.
ALONE = [{key: value} for key, value in STRONG.items() if key not in ("crop", "erasing")]
ALONE.append({"erasing": 1.0})


def view_of(
    photo: np.ndarray = PHOTO,
    *,
    example_id: int = 7,
    view: int = 0,
    seed: int = 1,
    image_size: int = 16,
    **views,
) -> np.ndarray:
    return training_view(
        tf.constant(photo),
        example_id=tf.constant(example_id, tf.int64),
        view=tf.constant(view, tf.int64),
        seed=seed,
        views=ViewsConfig(**({"crop": (0.3, 0.9)} | views)),
        image_size=image_size,
    ).numpy()


@pytest.mark.parametrize("views", [{}, *ALONE, STRONG], ids=str)
def test_the_same_view_is_the_same_pixels(views: dict) -> None:
    assert np.array_equal(view_of(**views), view_of(**views))


@pytest.mark.parametrize("option", ALONE, ids=str)
def test_every_augmentation_changes_some_view(option: dict) -> None:
    plain = [view_of(view=v) for v in range(4)]
    assert any(not np.array_equal(view_of(view=v, **option), plain[v]) for v in range(4))


@pytest.mark.parametrize("option", ALONE, ids=str)
def test_views_stay_within_the_range_of_pixels(option: dict) -> None:
    extreme = np.where(PHOTO > 127, 255, 0).astype(np.uint8)
    for view in range(4):
        image = view_of(extreme, view=view, **option)
        assert image.min() >= 0
        assert image.max() <= 255


def test_switching_one_augmentation_on_leaves_the_others_as_they_were() -> None:
    grey = np.full((20, 20, 3), 99, np.uint8)  # geometry does not change it
    alone = view_of(grey, brightness=0.3)
    assert alone == pytest.approx(view_of(grey, brightness=0.3, rotation=40, shift=0.2), abs=1e-2)


@pytest.mark.parametrize(
    "change", [{"example_id": 8}, {"view": 1}, {"seed": 2}, {"example_id": 7 + 2**40}]
)
def test_another_example_view_or_seed_is_another_view(change: dict) -> None:
    assert not np.array_equal(view_of(), view_of(**change))


def test_the_same_view_comes_out_of_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_views import STRONG, view_of;"
        "sys.stdout.buffer.write(view_of(**STRONG).tobytes())"
    )
    here = str(Path(__file__).parent)
    result = subprocess.run([sys.executable, "-c", code, here], capture_output=True, check=True)
    there = np.frombuffer(result.stdout, "float32").reshape(16, 16, 3)
    assert np.array_equal(there, view_of(**STRONG))


def test_two_sizes_show_the_same_crop() -> None:
    # The photo is a ramp, so the mean colour shows where the crop was.
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


def test_rotation_keeps_the_distance_to_the_centre_and_stays_within_its_angle() -> None:
    # The place of a bright dot shows the angle. It is near the centre, so that no mirrored edge
    # shows it twice.
    size = 65
    photo = np.zeros((size, size, 3), np.uint8)
    photo[31:34, 42:45] = 255

    def place(image: np.ndarray) -> complex:
        rows, columns = np.indices((size, size)) - size // 2
        light = image[..., 0].astype("float64")
        return complex((light * columns).sum(), (light * rows).sum()) / light.sum()

    turns = []
    for view in range(8):
        options = {"crop": (1.0, 1.0), "flip": False, "view": view, "image_size": size}
        before, after = (
            place(view_of(photo, **options)),
            place(view_of(photo, rotation=40, **options)),
        )
        assert abs(after) == pytest.approx(abs(before), abs=0.5)  # half a pixel of resampling
        turns.append(np.degrees(np.angle(after / before)))
    assert np.abs(turns).max() < 42  # two degrees are that half pixel
    assert min(turns) < -5
    assert max(turns) > 5


def test_erasing_covers_between_2_and_33_percent_with_one_colour() -> None:
    grey = np.full((64, 64, 3), 99, np.uint8)
    for view in range(20):
        image = view_of(grey, view=view, erasing=1.0, image_size=64)
        erased = (np.abs(image - 99) > 0.01).any(-1)
        assert len(np.unique(image[erased].round(3), axis=0)) == 1
        # A long rectangle that does not fit is cut; an edge can be off by half a pixel.
        assert 0.01 <= erased.mean() <= 0.36


def test_erasing_hits_its_share_of_the_views() -> None:
    grey = np.full((20, 20, 3), 99, np.uint8)
    hit = sum(np.ptp(view_of(grey, view=view, erasing=0.25)) > 1 for view in range(200))
    assert 25 <= hit <= 75  # 50 expected, four standard deviations are 24.5


def test_noise_has_strengths_up_to_its_maximum() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    keys = [tf.constant([1, view], tf.int32) for view in range(40)]
    views = [views_module._grain(tf.constant(grey), key, 0.1).numpy() for key in keys]
    strengths = np.array([image.std() for image in views]) / 255
    assert 0.09 < strengths.max() < 0.102  # a deviation estimated from 12,288 numbers
    assert strengths.min() < 0.01
    # The quartiles of 40 draws have deviations of 0.007 to 0.008.
    assert np.abs(np.quantile(strengths, [0.25, 0.5, 0.75]) - [0.025, 0.05, 0.075]).max() < 0.024
    for image, strength in zip(views, strengths, strict=True):
        assert abs(image.mean() - 128) < 5 * 255 * strength / np.sqrt(image.size)
        neighbours = np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]
        assert abs(neighbours) < 0.05  # each pixel has its own


@pytest.mark.parametrize("option", ALONE, ids=str)
def test_two_sizes_show_the_same_view(option: dict) -> None:
    # The photo is smooth, so that resampling changes little.
    y, x = np.mgrid[0:96, 0:96] / 95
    photo = (np.stack([y, x, (y + x) / 2], -1) * 255).astype(np.uint8)
    for view in range(4):
        small = view_of(photo, view=view, image_size=24, **option)
        large = view_of(photo, view=view, image_size=48, **option)
        halved = large.reshape(24, 2, 24, 2, 3).mean((1, 3))
        # The borders of mirrored edges and of the erased rectangle lie on other pixels.
        assert np.abs(small - halved).mean() < 4


@pytest.fixture
def source(photo_folder: Path):
    examples = scan_folder(photo_folder)["train"]
    views = ViewsConfig(crop=(0.5, 1.0))
    return ViewSource(examples, PhotoStore(16), views, 2, seed=1)


def epoch_images(source, *, batch_size: int, initial_epoch: int, epochs: int, **more) -> np.ndarray:
    batches = training_batches(
        source,
        image_size=16,
        batch_size=batch_size,
        seed=1,
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

    def reader(indices: np.ndarray, views: np.ndarray) -> np.ndarray:
        return labels[indices, views].astype("float32")

    dataset = training_batches(
        source, image_size=16, batch_size=3, seed=1, initial_epoch=1, epochs=2, soft_labels=reader
    )
    batches = list(dataset)
    assert len(batches) == steps_per_epoch(size, 3)
    targets = np.concatenate([targets for _, targets in batches])
    rows = (targets[:, classes] / (2 * classes)).astype(int)  # which example a label is of
    assert np.array_equal(targets[:, classes:], labels[rows, 1])
    assert np.array_equal(targets[:, :classes].argmax(1), source.examples.labels[rows])


def recoloured(colour: list[float], **views) -> np.ndarray:
    """One pixel, every augmentation at the upper end of its range."""
    image = tf.constant(colour)[None, None]
    return views_module._recolour(image, tf.ones(4), ViewsConfig(**views)).numpy()[0, 0]


def test_colours_match_values_worked_by_hand() -> None:
    assert recoloured([100.0, 50.0, 0.0], brightness=0.2) == pytest.approx([151, 101, 51])
    assert recoloured([250.0, 50.0, 0.0], brightness=0.2) == pytest.approx([255, 101, 51])
    # Grey of (100, 50, 0) is 0.2989 * 100 + 0.587 * 50 = 59.24; the distance to it grows by half.
    grey = 59.24
    expected = [grey + 1.5 * (100 - grey), grey + 1.5 * (50 - grey), 0]
    assert recoloured([100.0, 50.0, 0.0], saturation=0.5) == pytest.approx(expected, abs=0.01)
    # A third of the circle from red is green, half of it cyan.
    assert recoloured([200.0, 0.0, 0.0], hue=1 / 3) == pytest.approx([0, 200, 0], abs=0.01)
    assert recoloured([200.0, 0.0, 0.0], hue=0.5) == pytest.approx([0, 200, 200], abs=0.01)


def test_contrast_scales_the_distance_to_the_mean() -> None:
    image = tf.constant([[[100.0] * 3, [140.0] * 3]])
    contrasted = views_module._recolour(image, tf.ones(4), ViewsConfig(contrast=0.5)).numpy()
    assert contrasted[0, :, 0] == pytest.approx([90, 150])  # mean 120, distances of 20 to 30
