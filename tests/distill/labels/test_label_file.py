"""Label files: what they store of the logits, and how a killed labelling continues."""

from collections.abc import Iterator

import numpy as np
import pytest

from configs.errors import UserError
from distill.labels import label_file
from distill.labels.label_file import (
    LabelFormat,
    feature_statistics,
    label_reader,
    num_stored_features,
    shard_rows,
    standardized_reader,
    write_label_file,
)

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 20)).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype("float64"))
    return powers / powers.sum(1, keepdims=True)


def test_top_k_keeps_the_probabilities_of_the_largest_classes() -> None:
    top = LabelFormat(20, top_k=4)
    decoded = top.decode(top.encode(LOGITS))
    largest = np.argsort(-LOGITS, axis=1)[:, :4]
    stored, exact = (
        np.take_along_axis(softmax(logits), largest, axis=1) for logits in (decoded, LOGITS)
    )
    # Logits of up to 12 in float16 are right to 1/256.
    assert np.allclose(stored, exact, rtol=8e-3)


def test_classes_that_are_not_stored_share_the_rest_evenly() -> None:
    # The last two classes share 0.25, and the first two keep their probabilities.
    logits = np.log(np.array([[0.5, 0.25, 0.2, 0.05]], "float32"))
    top = LabelFormat(4, top_k=2)
    probs = softmax(top.decode(top.encode(logits)))
    assert probs[0] == pytest.approx([0.5, 0.25, 0.125, 0.125], rel=2e-3)  # float16


def test_logits_of_a_very_confident_teacher_stay_finite() -> None:
    sure = np.array([[500.0, -500.0, -500.0]], "float32")
    top = LabelFormat(3, top_k=1)
    decoded = top.decode(top.encode(sure))
    assert np.isfinite(decoded).all()
    assert decoded[0] == pytest.approx([500, -500, -500])


def test_classes_beyond_65535_keep_their_numbers(tmp_path) -> None:
    logits = np.zeros((2, 70_000), "float32")
    logits[0, 69_999] = logits[1, 3] = 9.0
    top = LabelFormat(70_000, top_k=1)
    path = tmp_path / "labels.npy"
    write_label_file(
        path,
        top,
        rows=range(1),
        num_views=2,
        chunks_from=lambda first: iter([top.encode(logits)]),
    )
    read = label_reader(path, top)
    first, second = read(np.array([0, 0]), np.array([0, 1]))
    assert (int(first.argmax()), int(second.argmax())) == (69_999, 3)


def test_all_logits_are_stored_as_float16() -> None:
    label_format = LabelFormat(20)
    assert np.array_equal(
        label_format.decode(label_format.encode(LOGITS)), LOGITS.astype("float16")
    )


@pytest.mark.parametrize("top_k", [None, 4])
def test_features_follow_the_logits_and_do_not_change_them(tmp_path, top_k: int | None) -> None:
    features = np.random.default_rng(1).uniform(0, 3, (6, 7)).astype("float32")
    alone, both = LabelFormat(20, top_k), LabelFormat(20, top_k, num_features=7)
    path = tmp_path / "labels.npy"
    answers = np.hstack([LOGITS, features])
    stored = both.encode(answers)
    write_label_file(
        path, both, rows=range(3), num_views=2, chunks_from=lambda first: iter([stored])
    )
    assert num_stored_features(path) == 7
    indices, views = np.array([2, 0]), np.array([1, 0])
    read = label_reader(path, both)(indices, views)
    logits = alone.decode(alone.encode(LOGITS))[[5, 0]]
    assert np.array_equal(read[:, :20], logits)
    assert np.array_equal(read[:, 20:], features.astype("float16")[[5, 0]])
    # A fine-tuning reads the logits alone.
    assert np.array_equal(label_reader(path, alone)(indices, views), logits)


def test_features_are_standardized_by_one_view_of_each_example(tmp_path) -> None:
    label_format, path = LabelFormat(2, num_features=3), tmp_path / "labels.npy"
    # Views take turns: the first view of the first example, the second of the second ...
    features = np.array([[1, 5, 0], [9, 9, 9], [9, 9, 9], [3, 5, 1]], "float32")
    answers = np.hstack([np.full((4, 2), 7, "float32"), features])
    stored = label_format.encode(answers)
    write_label_file(
        path, label_format, rows=range(2), num_views=2, chunks_from=lambda first: iter([stored])
    )
    mean, deviation = feature_statistics(path)
    assert mean == pytest.approx([2, 5, 0.5])
    # The second never varies: a hundredth of the mean deviation, (1 + 0 + 1/2) / 3.
    assert deviation == pytest.approx([1, 0.005, 0.5])
    read = standardized_reader(label_reader(path, label_format), mean, deviation)
    assert read(np.array([0]), np.array([0]))[0] == pytest.approx([7, 7, -1, 0, -1])


@pytest.mark.parametrize(
    "label_format",
    [
        LabelFormat(20), LabelFormat(20, top_k=3),
        LabelFormat(15, num_features=5), LabelFormat(15, top_k=3, num_features=5),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("num_bytes", [0, 50, 10_000, 20_001])
def test_a_killed_labelling_continues_at_its_first_unfinished_chunk(
    tmp_path, monkeypatch, label_format, num_bytes
) -> None:
    monkeypatch.setattr(label_file, "ROWS_PER_CHUNK", 8)
    logits = np.random.default_rng(0).normal(0, 3, (100 * 6, 20)).astype("float32")
    starts, path = [], tmp_path / "labels.npy"

    def chunks_from(first: int) -> Iterator[np.ndarray]:
        for start in range(first, 100, 8):
            starts.append(start)
            yield label_format.encode(logits[start * 6 : (start + 8) * 6])

    def write() -> bytes:
        write_label_file(
            path,
            label_format,
            rows=range(100),
            num_views=6,
            chunks_from=chunks_from,
        )
        return path.read_bytes()

    whole = write()
    assert starts == list(range(0, 100, 8))
    starts.clear()
    path.write_bytes(whole[:num_bytes])
    assert write() == whole
    row_bytes = (len(whole) - 128) // 100  # a .npy file this small has a header of 128 bytes
    assert starts[0] == max(min(num_bytes, len(whole)) - 128, 0) // (8 * row_bytes) * 8
    loaded = np.load(path)
    assert np.array_equal(label_format.encode(logits), loaded.reshape(600, *loaded.shape[2:]))


@pytest.mark.parametrize(("num_rows", "num_shards"), [(1000, 3), (128, 1), (129, 2), (5000, 7)])
def test_shards_hold_every_row_once(num_rows: int, num_shards: int) -> None:
    shards = [shard_rows(num_rows, i, num_shards) for i in range(1, num_shards + 1)]
    assert [row for shard in shards for row in shard] == list(range(num_rows))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f2', 'fortran_order': False, 'shape': (9, 9, 9)}",  # longer than the file
        "{'descr': '|O', 'fortran_order': False, 'shape': (6,)}",  # a pickle
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 5)}",  # of another type
        "{'descr': '<f2', 'fortran_order': False, 'shape': (20,)}",  # of another shape
        "((((",
        "\0",
    ],
)
def test_a_damaged_label_file_says_how_it_is_made_again(tmp_path, header: str) -> None:
    path = tmp_path / "labels.npy"
    encoded = f"{header}\n".encode()
    start = b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little")
    path.write_bytes(start + encoded + b"\0" * 80)
    with pytest.raises(UserError, match=r"labels\.npy are damaged(.|\n)*--force label"):
        label_reader(path, LabelFormat(num_classes=5))


def test_a_reader_takes_files_with_features_that_it_leaves_out(tmp_path) -> None:
    stored = LabelFormat(num_classes=5, num_features=3)
    np.save(tmp_path / "labels.npy", np.zeros(stored.shape(4, 2), stored.dtype))
    reader = label_reader(tmp_path / "labels.npy", LabelFormat(num_classes=5))
    assert reader(np.arange(4), np.zeros(4, int)).shape == (4, 5)


def test_a_label_file_of_fewer_photos_is_damaged(tmp_path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros((2, 2, 5), "<f2"))
    with pytest.raises(UserError, match=r"labels\.npy are damaged: index 2 is out of bounds"):
        label_reader(tmp_path / "labels.npy", LabelFormat(num_classes=5))(
            np.arange(3), np.zeros(3, int)
        )
