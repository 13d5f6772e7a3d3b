import numpy as np
import pytest

from configs.schema import BudgetConfig
from eval.choice.verdict import (
    Loss,
    choose,
    loss_by_rounding,
    loss_of,
)
from support import latency_of

LABELS = np.array([0, 0, 0, 1])
SOURCE = np.tile([[0.75, 0.25]], (4, 1))
"""Right on three of four, as it says itself."""


def row(name: str, p50_ms: float, num_bytes: int = 1) -> dict:
    return {"name": name, "file_bytes": num_bytes, "latency": [latency_of(p50_ms)]}


ROWS = [row("slow", 9.0), row("fast", 2.0, 300), row("fastest", 1.0)]
LOSSES = {"slow": Loss(0.0, 0.0), "fast": Loss(0.005, 0.005), "fastest": Loss(0.2, 0.2)}


def test_the_fastest_file_within_the_budget_is_chosen() -> None:
    verdict = choose(ROWS, losses=LOSSES, budget=BudgetConfig(max_drop=0.01))
    assert verdict["chosen_file"] == "fast"
    assert "the fastest of 2 files within 1.0 points" in verdict["reason"]
    assert verdict["turned_down"] == {
        "slow": "it takes 9.00 ms, the fastest 2.00",
        "fastest": "on the validation photos it loses 20.00 points, 1.00 allowed",
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
    verdict = choose(ROWS, losses=LOSSES, budget=BudgetConfig(**limits))
    assert verdict["chosen_file"] == chosen
    assert verdict["turned_down"].get("fast", "") == says


def test_where_none_is_within_the_budget_the_best_is_named_as_such() -> None:
    worse = {name: Loss(*[loss.counted + 0.09] * 2) for name, loss in LOSSES.items()}
    verdict = choose(ROWS, losses=worse, budget=BudgetConfig(max_drop=0.01))
    assert verdict["chosen_file"] == "slow"
    assert "no file stays within 1.0 points" in verdict["reason"]
    assert "loses the least (it loses 9.00 points)" in verdict["reason"]


def timed(name: str, factor: float, *, file_bytes: int) -> dict:
    """A file timed in ten rounds together with the others, none of which wavers."""
    round_min_ms = tuple(factor * ms for ms in range(1, 11))
    latency = latency_of(5.5 * factor, round_min_ms=round_min_ms, noise_floor=0.04)
    return {"name": name, "file_bytes": file_bytes, "latency": [latency]}


@pytest.mark.parametrize(
    ("others", "chosen", "says", "other_is"),
    [
        # Slower, though smaller
        ([timed("b", 1.10, file_bytes=500)], "a", "the fastest of 2", "takes 6.05 ms"),
        ([timed("b", 1.03, file_bytes=500)], "b", "the smallest of 2 as fast of 2", "has 1,000"),
        ([timed("b", 1.03, file_bytes=1005)], "b", "the smallest of 2 as fast of 2", "no less"),
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
        losses={"a": Loss(0.008, 0.008), "b": Loss(0.005, 0.005), "c": Loss(0.0, 0.0)},
        budget=BudgetConfig(),
    )
    assert verdict["chosen_file"] == chosen
    assert says in verdict["reason"]
    assert other_is in verdict["turned_down"]["b" if chosen == "a" else "a"]


@pytest.mark.parametrize(
    ("limits", "chosen", "merit"),
    [
        # float32 files never lose anything: that alone makes none of them the best.
        ({"max_latency_ms": 0.5}, "fast", "the fastest (2.00 ms)"),
        ({"max_latency_ms": 0.5, "max_bytes": 250}, "slow", "the fastest (9.00 ms)"),
        ({"max_bytes": 100}, "slow", "the smallest (200 bytes)"),
    ],
)
def test_where_another_limit_fails_the_nearest_that_loses_no_more_is_named(
    limits: dict, chosen: str, merit: str
) -> None:
    rows = [row("slow", 9.0, 200), row("fast", 2.0, 300), row("fastest", 1.0)]
    verdict = choose(rows, losses=LOSSES, budget=BudgetConfig(**limits))
    assert verdict["chosen_file"] == chosen
    assert verdict["reason"].endswith(f"of those that lose no more this one is {merit}")
    assert set(verdict["turned_down"]) == {"slow", "fast", "fastest"} - {chosen}


def test_speeds_are_compared_with_the_fastest() -> None:
    # b is as fast as a, and c as b; c is slower than a.
    rows = [
        timed("a", 1.0, file_bytes=900),
        timed("b", 1.03, file_bytes=500),
        timed("c", 1.06, file_bytes=100),
        {"name": "d", "file_bytes": 50, "latency": []},
    ]
    same = dict.fromkeys("abcd", Loss(0.0, 0.0))
    verdict = choose(rows, losses=same, budget=BudgetConfig())
    assert verdict["chosen_file"] == "b"
    assert verdict["turned_down"] == {
        "a": "it has 900 bytes, the smallest 500",
        "c": "it takes 5.83 ms, the fastest 5.50",
        "d": "it was not timed",
    }


def test_a_limit_that_was_not_looked_at_is_not_called_held() -> None:
    rows = [{"name": "slow", "file_bytes": 1, "latency": []}]
    reason = choose(rows, losses=LOSSES, budget=BudgetConfig(max_latency_ms=5.0))["reason"]
    assert "5 ms" not in reason
    assert reason.endswith("; its latency was not measured")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (Loss(0.004, 0.014, is_expected=True), "is expected to lose 0.40 points, counted 1.40"),
        (Loss(0.004, 0.014), "loses at least 0.40 points, counted 1.40"),
        (Loss(0.014, 0.014), "loses 1.40 points"),
        (Loss(-0.014, -0.014), "gains 1.40 points"),
    ],
)
def test_an_estimate_is_called_one(loss: Loss, says: str) -> None:
    assert str(loss) == says
    verdict = choose(ROWS[:1], losses={"slow": loss}, budget=BudgetConfig(max_drop=0.02))
    assert f"(it {says})" in verdict["reason"]


def test_nothing_to_choose_from_is_no_choice() -> None:
    verdict = choose([], losses={}, budget=BudgetConfig())
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


def test_where_no_answer_changed_what_is_rare_may_yet_happen() -> None:
    found = loss_by_rounding(SOURCE, SOURCE, LABELS)
    # z^2 / (n + z^2), with z = 1.96 and n = 4.
    assert found["drop_high"] == pytest.approx(0.4899, abs=1e-4)
    assert found["expected_high"] == pytest.approx(0.4899, abs=1e-4)
    assert found["loss"] == found["drop"] == found["expected_low"] == 0


def test_a_file_of_another_model_is_counted() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]])
    pruned = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])  # the same answers
    assert loss_of(file, pruned, SOURCE, LABELS) == Loss(0.25, 0.25)


def test_a_file_of_a_model_that_computes_the_same_is_judged_by_what_rounding_costs() -> None:
    file = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]])
    tied = np.tile([[0.5, 0.5]], (4, 1))
    # Equalized: the same but for float32, which breaks a tie another way.
    equalized = tied + np.array([-1e-6, 1e-6])
    loss = loss_of(file, equalized, tied, LABELS)
    assert loss.is_expected
    assert loss.decisive == pytest.approx(0, abs=1e-6)
    loss = loss_of(file, SOURCE, SOURCE, LABELS)
    assert loss.decisive == pytest.approx(0.125, abs=1e-6)
    assert loss.counted == 0.25
