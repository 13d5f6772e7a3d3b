"""Whether a file holds its limits, and which it does not: the one place that decides it."""

from dataclasses import dataclass

from configs.schema.files import BudgetConfig
from eval.choice.drop import Drop
from eval.timing.latency import milliseconds


@dataclass(frozen=True)
class Limits:
    """The limits that a file has to hold; None where there is no limit.

    Attributes:
        min_top1: smallest share of right answers.
        max_drop: most top-1 that it may lose against the model it stands for, as a share.
        max_p50_ms: most milliseconds that half of its runs may take.
        max_p90_ms: most milliseconds that 90 % of its runs may take.
        max_bytes: largest size.
    """

    min_top1: float | None = None
    max_drop: float | None = None
    max_p50_ms: float | None = None
    max_p90_ms: float | None = None
    max_bytes: int | None = None

    @classmethod
    def of_budget(cls, budget: BudgetConfig) -> "Limits":
        """The limits of a config."""
        return cls(
            max_drop=budget.max_drop,
            max_p50_ms=budget.max_latency_ms,
            max_bytes=budget.max_bytes,
        )


@dataclass(frozen=True)
class FileFacts:
    """What was measured of a file, as far as limits concern it; None where it was not measured.

    Attributes:
        split: the photos that `top1` and `drop` were measured on.
    """

    file_bytes: int
    split: str
    top1: float | None = None
    drop: Drop | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None


def shortfalls(facts: FileFacts, limits: Limits) -> list[str]:
    """One reason for each limit that a file does not hold; no limit fails on what is not measured.

    A reason is a sentence about the file, as in "it has 300 bytes, 100 allowed".
    """
    reasons = []
    photos = f"on the {facts.split} photos"
    if facts.top1 is not None and limits.min_top1 is not None and facts.top1 < limits.min_top1:
        bound = f"at least {100 * limits.min_top1:.2f} expected"
        reasons.append(f"{photos} its top-1 is {100 * facts.top1:.2f} %, {bound}")
    if facts.drop and limits.max_drop is not None and facts.drop.decisive > limits.max_drop:
        reasons.append(f"{photos} it {facts.drop}, {100 * limits.max_drop:.2f} allowed")
    for latency_ms, limit, runs in (
        (facts.p50_ms, limits.max_p50_ms, ""),
        (facts.p90_ms, limits.max_p90_ms, " in 90 % of its runs"),
    ):
        if latency_ms is not None and limit is not None and latency_ms > limit:
            reasons.append(f"it takes {milliseconds(latency_ms)} ms{runs}, {limit:g} allowed")
    if limits.max_bytes is not None and facts.file_bytes > limits.max_bytes:
        reasons.append(f"it has {facts.file_bytes:,} bytes, {limits.max_bytes:,} allowed")
    return reasons


def not_measured(facts: FileFacts, limits: Limits) -> list[str]:
    """The names of what has a limit and was not measured."""
    pairs = [
        ("top-1", facts.top1, limits.min_top1),
        ("drop", facts.drop, limits.max_drop),
        ("p50", facts.p50_ms, limits.max_p50_ms),
        ("p90", facts.p90_ms, limits.max_p90_ms),
    ]
    return [name for name, fact, limit in pairs if limit is not None and fact is None]
