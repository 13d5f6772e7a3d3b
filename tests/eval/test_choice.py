import numpy as np
import pytest

from configs.schema import BudgetConfig
from eval.choice import choose, loss_by_rounding, loss_of

LABELS = np.array([0, 0, 0, 1])
SOURCE = np.tile([[0.75, 0.25]], (4, 1))
"""Right on three of four, as it says itself."""


def row(name: str, p50_ms: float, num_bytes: int = 1) -> dict:
    return {"name": name, "file_bytes": num_bytes, "latency": [{"p50_ms": p50_ms}]}


ROWS = [row("slow", 9.0), row("fast", 2.0, 300), row("fastest", 1.0)]
DROPS = {"slow": 0.0, "fast": 0.005, "fastest": 0.20}


def test_the_fastest_file_within_the_budget_is_chosen() -> None:
    verdict = choose(ROWS, drops=DROPS, budget=BudgetConfig(max_drop=0.01))
    assert verdict["chosen_file"] == "fast"
    assert "the fastest of 2 files within 1.0 points" in verdict["reason"]
    assert verdict["turned_down"] == {
        "slow": "it takes 9.00 ms, the chosen one 2.00",
        "fastest": "it loses 20.00 points on the validation photos, 1.00 allowed",
    }


@pytest.mark.parametrize(
    ("limits", "chosen", "says"),
    [
        ({"max_bytes": 100}, "slow", "it has 300 bytes, 100 allowed"),  # the only one left
        ({"max_latency_ms": 5.0}, "fast", ""),
        ({"max_drop": 0.5, "max_latency_ms": 1.5}, "fastest", "it takes 2.00 ms, 1.5 allowed"),
    ],
)
def test_every_limit_is_held(limits: dict, chosen: str, says: str) -> None:
    verdict = choose(ROWS, drops=DROPS, budget=BudgetConfig(**limits))
    assert verdict["chosen_file"] == chosen
    assert verdict["turned_down"].get("fast", "") == says


def test_where_none_is_within_the_budget_the_best_is_named_as_such() -> None:
    worse = {name: drop + 0.09 for name, drop in DROPS.items()}
    verdict = choose(ROWS, drops=worse, budget=BudgetConfig(max_drop=0.01))
    assert verdict["chosen_file"] == "slow"
    assert "no file stays within 1.0 points" in verdict["reason"]
    assert "loses the least (9.0 points)" in verdict["reason"]


def timed(name: str, factor: float, *, file_bytes: int) -> dict:
    """A file timed in ten rounds together with the others, none of which wavers."""
    rounds = {"round_min_ms": [factor * ms for ms in range(1, 11)], "noise_floor": 0.04}
    return {
        "name": name,
        "file_bytes": file_bytes,
        "latency": [{"p50_ms": 5.5 * factor, **rounds}],
    }


@pytest.mark.parametrize(
    ("others", "chosen", "says", "other_is"),
    [
        # Slower, though smaller
        ([timed("b", 1.10, file_bytes=500)], "a", "the fastest of 2", "takes 6.05 ms"),
        ([timed("b", 1.03, file_bytes=500)], "b", "the smallest of 2 as fast of 2", "has 1,000"),
        ([timed("b", 1.03, file_bytes=1005)], "b", "the smallest of 2 as fast of 2", "loses more"),
        ([timed("b", 1.03, file_bytes=1500)], "a", "the smallest of 2 as fast of 2", "has 1,500"),
        (
            [timed("b", 1.03, file_bytes=900), timed("c", 1.1, file_bytes=1)],
            "b",
            "2 as fast of 3",
            "has 1,000",
        ),
    ],
)
def test_of_files_that_differ_in_no_speed_the_smallest_is_chosen(
    others: list, chosen: str, says: str, other_is: str
) -> None:
    verdict = choose(
        [timed("a", 1.0, file_bytes=1000), *others],
        drops={"a": 0.008, "b": 0.005, "c": 0.0},
        budget=BudgetConfig(),
    )
    assert verdict["chosen_file"] == chosen
    assert says in verdict["reason"]
    assert other_is in verdict["turned_down"]["b" if chosen == "a" else "a"]


@pytest.mark.parametrize("rows", [[], ROWS])
def test_nothing_to_compare_is_no_choice(rows: list) -> None:
    verdict = choose(rows, drops=None, budget=BudgetConfig())
    assert verdict["chosen_file"] is None


def test_what_photos_tell_of_rounding_is_worked_by_hand() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]])
    found = loss_by_rounding(file, SOURCE, LABELS)
    assert found["n"] == 4
    assert found["agreement"] == 0.5
    assert found["drop"] == 0  # one answer became wrong, one right
    # Two answers of which the source was half a probability surer than of the other.
    assert found["expected_drop"] == pytest.approx(0.25, abs=1e-6)
    assert found["loss"] == found["expected_drop"]


def test_what_is_counted_beyond_chance_outweighs_what_is_expected() -> None:
    labels = np.zeros(400, int)
    source = np.tile([[0.51, 0.49]], (400, 1))
    file = np.where(np.arange(400)[:, None] < 40, [[0.4, 0.6]], source)
    found = loss_by_rounding(file, source, labels)
    # Always right: no temperature makes it surer than 0.58, and a tenth is lost.
    assert found["expected_drop"] < 0.02
    assert found["drop"] == pytest.approx(0.1)
    assert found["loss"] == found["drop_low"] > 0.06


def test_a_file_of_another_model_is_counted() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]])
    pruned = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])
    assert loss_of(file, pruned, SOURCE, LABELS) == 0.25
    assert loss_of(file, SOURCE, SOURCE, LABELS) == pytest.approx(0.125, abs=1e-6)
