"""Which limits a file holds, and the reasons where it does not."""

import pytest

from configs.schema.files import BudgetConfig
from eval.choice.budget import FileFacts, Limits, not_measured, shortfalls
from eval.choice.drop import Drop

FACTS = FileFacts(1_000_000, "test", top1=0.9, drop=Drop.of_count(0.01), p50_ms=2.0, p90_ms=2.5)


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        (Limits(min_top1=0.9), []),
        (
            Limits(min_top1=0.901),
            ["on the test photos its top-1 is 90.00 %, at least 90.10 expected"],
        ),
        (Limits(max_drop=0.01), []),
        (Limits(max_drop=0.0), ["on the test photos it loses 1.00 points, 0.00 allowed"]),
        (Limits(max_p50_ms=2.0), []),
        (Limits(max_p50_ms=1.5), ["it takes 2.00 ms, 1.5 allowed"]),
        (Limits(max_p90_ms=2.5), []),
        (Limits(max_p90_ms=2.4), ["it takes 2.50 ms in 90 % of its runs, 2.4 allowed"]),
        (Limits(max_bytes=1_000_000), []),
        (Limits(max_bytes=999_999), ["it has 1,000,000 bytes, 999,999 allowed"]),
    ],
)
def test_a_limit_is_held_up_to_itself(limits: Limits, reasons: list[str]) -> None:
    assert shortfalls(FACTS, limits) == reasons


def test_every_limit_that_is_not_held_is_a_reason() -> None:
    limits = Limits(min_top1=1.0, max_drop=0.0, max_p50_ms=1.0, max_p90_ms=1.0, max_bytes=1)
    assert len(shortfalls(FACTS, limits)) == 5


def test_what_was_not_measured_is_named_and_breaks_no_limit() -> None:
    facts, limits = FileFacts(1, "test"), Limits(min_top1=0.9, max_p90_ms=1.0)
    assert shortfalls(facts, limits) == []
    assert not_measured(facts, limits) == ["top-1", "p90"]
    assert not_measured(FACTS, limits) == []


def test_the_latency_of_a_budget_is_the_median() -> None:
    budget = BudgetConfig(max_drop=0.02, max_latency_ms=3, max_bytes=7)
    assert Limits.of_budget(budget) == Limits(max_drop=0.02, max_p50_ms=3, max_bytes=7)
