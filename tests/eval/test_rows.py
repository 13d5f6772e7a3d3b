"""Arrays that need not fit into memory hold what the same arrays in memory hold."""

from pathlib import Path

import numpy as np
import pytest

from eval import rows as module
from eval.rows import Rows, mapped_npz
from eval.scoring.probabilities import as_probabilities


@pytest.mark.parametrize("limit", [0, 100, 10**6])
def test_rows_in_memory_and_on_the_disk_are_the_same(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "MAX_IN_MEMORY", limit)
    parts = [np.arange(12, dtype="float32").reshape(4, 3) + 100 * n for n in range(5)]
    rows = Rows()
    for number, part in enumerate(parts, 1):
        rows.append(part)
        assert len(rows) == 4 * number
    result = rows.array()
    np.testing.assert_array_equal(result, np.concatenate(parts))
    assert result.dtype == np.float32
    assert type(result) is np.ndarray


def test_one_empty_part_is_enough() -> None:
    rows = Rows()
    rows.append(np.zeros((0, 7), "float32"))
    assert rows.array().shape == (0, 7)


def test_an_npz_file_is_mapped(tmp_path: Path) -> None:
    arrays = {
        "validation": np.random.default_rng(0).random((50, 3)).astype("float32"),
        "test": np.arange(8.0).reshape(2, 4), "none": np.zeros((0, 3), "float32"),
    }  # fmt: skip
    with open(tmp_path / "a.npz", "wb") as file:
        np.savez(file, **arrays)
    mapped = mapped_npz(tmp_path / "a.npz")
    assert list(mapped) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(mapped[name], array)
    assert not mapped["test"].flags.writeable


def test_probabilities_of_many_rows_are_those_of_few() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (10_000, 5)).astype("float32")
    expected = np.exp(logits.astype("float64"))
    expected /= expected.sum(axis=1, keepdims=True)
    # float32 keeps seven digits.
    np.testing.assert_allclose(as_probabilities(logits), expected, rtol=1e-5)
    scores = np.abs(logits) / np.abs(logits).max()
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(as_probabilities(scores), expected, rtol=1e-5)
