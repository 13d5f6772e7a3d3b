"""The file that is chosen, and why the others are turned down."""

from dataclasses import replace

import pytest

from configs.schema.files import BudgetConfig
from eval.choice.drop import Drop
from eval.choice.file_to_ship import MeasuredFile, choose
from support import latency_of


def file(name: str, p50_ms: float, drop: float, num_bytes: int = 1) -> MeasuredFile:
    return MeasuredFile(name, num_bytes, Drop.of_count(drop), latency_of(p50_ms))


FILES = [file("slow", 9.0, 0.0), file("fast", 2.0, 0.005, 300), file("fastest", 1.0, 0.2)]


def test_the_fastest_file_within_the_budget_is_chosen() -> None:
    verdict = choose(FILES, budget=BudgetConfig(max_drop=0.01))
    assert verdict.chosen_file == "fast"
    assert "the fastest of 2 files within 1.0 points" in verdict.reason
    assert verdict.turned_down == {
        "slow": "it takes 9.00 ms, the fastest 2.00 ms",
        "fastest": "on the validation photos it loses 20.00 points, 1.00 allowed",
    }


@pytest.mark.parametrize(
    ("limits", "chosen", "reason"),
    [
        ({"max_bytes": 100}, "slow", "it has 300 bytes, 100 allowed"),  # the only one left
        ({"max_latency_ms": 5.0}, "fast", ""),
        ({"max_drop": 0.5, "max_latency_ms": 1.5}, "fastest", "it takes 2.00 ms, 1.5 allowed"),
    ],
)
def test_every_limit_is_held(limits: dict, chosen: str, reason: str) -> None:
    verdict = choose(FILES, budget=BudgetConfig(**limits))
    assert verdict.chosen_file == chosen
    assert verdict.turned_down.get("fast", "") == reason


def test_where_none_is_within_the_budget_the_nearest_is_chosen_and_the_reason_says_so() -> None:
    worse = [replace(f, drop=Drop.of_count(f.drop.counted + 0.09)) for f in FILES]
    verdict = choose(worse, budget=BudgetConfig(max_drop=0.01))
    assert verdict.chosen_file == "slow"
    assert "no file stays within 1.0 points" in verdict.reason
    assert "loses the least: it loses 9.00 points" in verdict.reason


def timed(name: str, factor: float, *, file_bytes: int, drop: float = 0.0) -> MeasuredFile:
    """A file that was timed in ten rounds together with the others, at constant speed."""
    round_min_ms = tuple(factor * ms for ms in range(1, 11))
    latency = latency_of(5.5 * factor, round_min_ms=round_min_ms, noise_floor=0.04)
    return MeasuredFile(name, file_bytes, Drop.of_count(drop), latency)


@pytest.mark.parametrize(
    ("others", "chosen", "superlative", "other_is"),
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
    others: list, chosen: str, superlative: str, other_is: str
) -> None:
    first = timed("a", 1.0, file_bytes=1000, drop=0.008)
    verdict = choose([first, *others], budget=BudgetConfig())
    assert verdict.chosen_file == chosen
    assert superlative in verdict.reason
    assert other_is in verdict.turned_down["b" if chosen == "a" else "a"]


@pytest.mark.parametrize(
    ("limits", "chosen", "merit"),
    [
        # float32 files never lose anything: that alone makes none of them the best.
        ({"max_latency_ms": 0.5}, "fast", "the fastest (2.00 ms)"),
        ({"max_latency_ms": 0.5, "max_bytes": 250}, "slow", "the fastest (9.00 ms)"),
        ({"max_bytes": 100}, "slow", "the smallest (200 bytes)"),
    ],
)
def test_where_another_limit_fails_the_nearest_that_loses_no_more_is_chosen(
    limits: dict, chosen: str, merit: str
) -> None:
    files = [replace(FILES[0], file_bytes=200), *FILES[1:]]
    verdict = choose(files, budget=BudgetConfig(**limits))
    assert verdict.chosen_file == chosen
    assert verdict.reason.endswith(f"of those that lose no more this one is {merit}")
    assert set(verdict.turned_down) == {"slow", "fast", "fastest"} - {chosen}


def test_speeds_are_compared_with_the_fastest() -> None:
    # b is as fast as a, and c as b; c is slower than a.
    files = [
        timed("a", 1.0, file_bytes=900),
        timed("b", 1.03, file_bytes=500),
        timed("c", 1.06, file_bytes=100),
        MeasuredFile("d", 50, Drop.of_count(0.0)),
    ]
    verdict = choose(files, budget=BudgetConfig())
    assert verdict.chosen_file == "b"
    assert verdict.turned_down == {
        "a": "it has 900 bytes, the smallest 500",
        "c": "it takes 5.83 ms, the fastest 5.50 ms",
        "d": "it was not timed",
    }


def test_a_limit_that_was_not_measured_is_not_called_held() -> None:
    untimed = replace(FILES[0], latency=None)
    reason = choose([untimed], budget=BudgetConfig(max_latency_ms=5.0)).reason
    assert "5 ms" not in reason
    assert reason.endswith("; its latency was not measured")


def test_the_reason_says_what_kind_of_drop_decided() -> None:
    expected = replace(FILES[0], drop=Drop(0.004, 0.014, "expected"))
    reason = choose([expected], budget=BudgetConfig(max_drop=0.02)).reason
    assert reason.endswith(": it is expected to lose 0.40 points (counted: 1.40 lost)")


def test_nothing_to_choose_from_is_no_choice() -> None:
    assert choose([], budget=BudgetConfig()).chosen_file is None
