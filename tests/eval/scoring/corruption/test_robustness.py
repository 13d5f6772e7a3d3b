"""Models and files on corrupted photos: all see the same photos, and drops are worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.records import to_json
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.evaluate import EvaluateConfig
from eval.images import evaluation_view
from eval.scoring.corruption.corruptions import corrupt
from eval.scoring.corruption.photos import CorruptedPhotos, corrupted_file_step, save_answers
from eval.scoring.corruption.robustness import HURTS_MORE, NO_DIFFERENCE, Robustness, robustness


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.photos_manifest.parent.mkdir(parents=True)
    run.photos_manifest.write_text("photos")
    return run


@pytest.fixture
def photos(tmp_path: Path, colours: np.ndarray) -> CorruptedPhotos:
    paths = []
    for number, image in enumerate(colours):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image.repeat(4, axis=0).repeat(4, axis=1)).save(paths[-1])
    return CorruptedPhotos(paths, np.arange(3), ["contrast", "jpeg"], 16)


def test_every_photo_is_shown_in_every_kind_and_strength(photos: CorruptedPhotos) -> None:
    batches = list(photos.batches((8, 8)))
    assert [batch.shape for batch in batches] == [(10, 8, 8, 3)] * 3
    assert len(photos) == 30
    # Shrunk to 16 px first: another model of another size sees the same corrupted photo.
    red = np.zeros((16, 16, 3), "uint8")
    red[..., 0] = 250
    expected = evaluation_view(corrupt(red, "jpeg", strength=2, seed=0), (8, 8))
    np.testing.assert_array_equal(batches[0][6], expected)


def test_a_file_answers_once(run: RunDir, photos: CorruptedPhotos, onnx_file: Path) -> None:
    step = corrupted_file_step(run, onnx_file, photos, num_threads=1)
    take_step(step)
    answers = np.load(run.corrupted_answers(onnx_file.name))
    assert answers.shape == (3, 2, 5)
    # A JPEG of one colour keeps it; contrast leaves a flat photo as it is.
    np.testing.assert_array_equal(answers, np.broadcast_to([[[0]], [[1]], [[2]]], (3, 2, 5)))
    written = run.corrupted_answers(onnx_file.name).stat().st_mtime_ns
    take_step(corrupted_file_step(run, onnx_file, photos, num_threads=1))
    assert run.corrupted_answers(onnx_file.name).stat().st_mtime_ns == written


def robustness_of(run: RunDir, share_lost: float) -> Robustness:
    """400 photos: the file is wrong on 8 clean ones, and on a share of all corrupted ones."""
    labels = np.zeros(400, int)
    photos = CorruptedPhotos([Path("x")] * 400, labels, ["noise"], 8)
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    clean = {"student": np.tile(right, (420, 1)), "a.onnx": np.tile(right, (420, 1))}
    clean["a.onnx"][:8] = wrong
    save_answers(run, "student", np.zeros((400, 1, 5), "int32"))
    answers = np.zeros((400, 1, 5), "int32")
    answers[: round(400 * share_lost)] = 1
    save_answers(run, "a.onnx", answers)
    parents = {"student": None, "a.onnx": "student"}
    return robustness(run, photos, clean=clean, parents=parents, shipped="a.onnx")


def test_a_file_that_loses_more_on_corrupted_photos_is_reported(run: RunDir) -> None:
    result = robustness_of(run, 0.1)
    row = result.rows[1]
    assert row.drops is not None
    assert row.drops.clean_drop == pytest.approx(0.02)
    assert row.drops.corrupted_drop == pytest.approx(0.1)
    assert row.top1 == {"noise": [pytest.approx(0.9)] * 5}
    # 32 of 400 photos lose more: 0.08 +- 1.96 sqrt(0.08 * 0.92 / 400) = 0.027, of 2,000 samples
    assert row.drops.extra_drop == pytest.approx(0.08)
    ends = (row.drops.extra_drop_low, row.drops.extra_drop_high)
    assert ends == pytest.approx((0.0534, 0.1066), abs=0.005)
    assert row.drops.verdict == HURTS_MORE
    assert result.sentence is not None
    assert result.sentence.startswith(
        "Compression costs more on corrupted photos than on clean ones: against student, a.onnx "
        "loses 2.0 points on the clean photos and 10.0 on the corrupted ones, a difference of +8.0"
    )


def test_the_same_drop_is_no_difference(run: RunDir) -> None:
    result = robustness_of(run, 0.02)
    drops = result.rows[1].drops
    assert drops is not None
    assert (drops.extra_drop, drops.verdict) == (0, NO_DIFFERENCE)
    assert result.sentence is not None
    assert "costs about the same on corrupted photos as on clean ones" in result.sentence


def test_the_drops_are_keys_of_the_row_in_json(run: RunDir) -> None:
    trained, file = to_json(robustness_of(run, 0.02))["rows"]
    keys = {"name", "source", "clean_top1", "corrupted_top1", "top1"}
    assert set(trained) == keys
    ends = ("", "_low", "_high")
    drops = {f"{kind}_drop{end}" for kind in ("clean", "corrupted", "extra") for end in ends}
    assert set(file) == keys | drops | {"verdict"}


def test_photos_to_corrupt_without_a_corruption_are_refused() -> None:
    with pytest.raises(ValueError, match="num_corrupted has no effect"):
        EvaluateConfig(num_corrupted=50)
    assert EvaluateConfig(num_corrupted=50, corruptions=["noise"]).num_corrupted == 50
