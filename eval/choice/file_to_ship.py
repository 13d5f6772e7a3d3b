"""Which of several measured files to ship, and why none of the others."""

from dataclasses import dataclass, field

from configs.schema.files import BudgetConfig
from eval.choice.budget import FileFacts, Limits, shortfalls
from eval.choice.drop import Drop
from eval.timing.differences import difference
from eval.timing.latency import Latency, milliseconds


@dataclass(frozen=True)
class MeasuredFile:
    """What the choice of a file depends on.

    Attributes:
        drop: on the validation photos. The validation split chooses, so that the test scores of the
            chosen file stay unbiased.
        latency: on the first device; None where it was not measured.
    """

    name: str
    file_bytes: int
    drop: Drop
    latency: Latency | None = None

    @property
    def facts(self) -> FileFacts:
        """What limits apply to."""
        p50_ms = self.latency.p50_ms if self.latency else None
        return FileFacts(self.file_bytes, "validation", drop=self.drop, p50_ms=p50_ms)

    @property
    def speed(self) -> tuple[float, int]:
        """Orders files from the fastest to the slowest, and equally fast ones by size."""
        return (self.latency.p50_ms if self.latency else float("inf")), self.file_bytes


@dataclass(frozen=True)
class Verdict:
    """Which file to ship: `verdict` of report.json.

    Attributes:
        chosen_file: its name; None where there is nothing to choose from.
        reason: why this one.
        turned_down: why not each of the others, by their names.
        holds_limits: whether the chosen file holds all limits of the budget.
    """

    chosen_file: str | None
    reason: str
    turned_down: dict[str, str] = field(default_factory=dict)
    holds_limits: bool = True


def choose(
    files: list[MeasuredFile], *, budget: BudgetConfig, model: str = "the student"
) -> Verdict:
    """The fastest file that holds the budget.

    Of files whose speeds do not differ the smallest is chosen, and of those of one size (within
    1 %) the one that loses least. Where no file holds the budget, the nearest is chosen, and the
    reason says so.

    Args:
        model: what the reason calls the model that the files stand for.
    """
    if not files:
        return Verdict(None, "there is nothing to choose from", holds_limits=False)
    limits = Limits.of_budget(budget)
    reasons = {file.name: shortfalls(file.facts, limits) for file in files}
    within = [file for file in files if not reasons[file.name]]
    if within:
        chosen, reason = _best(within, budget, model)
    else:
        chosen, merit = _nearest(files, budget)
        reason = f"no file stays {_limits(budget, model)}; {merit}"
    turned_down = {
        file.name: "; ".join(reasons[file.name]) or _behind(file, within)
        for file in files
        if file is not chosen
    }
    return Verdict(chosen.name, reason, turned_down, holds_limits=bool(within))


def _best(within: list[MeasuredFile], budget: BudgetConfig, model: str) -> tuple[MeasuredFile, str]:
    """The file to choose of those that hold the budget, and the reason."""
    equally_fast = _as_fast_as_the_fastest(within)
    chosen = min(_as_small_as_the_smallest(equally_fast), key=lambda file: file.drop.decisive)
    if chosen.latency is None:
        superlative = "smallest"
    elif len(equally_fast) == 1:
        superlative = "fastest"
    else:
        superlative = f"smallest of {len(equally_fast)} as fast"
    which = "only file" if len(within) == 1 else f"{superlative} of {len(within)} files"
    reason = f"the {which} {_limits(budget, model, chosen)}: it {chosen.drop}"
    if budget.max_latency_ms is not None and chosen.latency is None:
        reason += "; its latency was not measured"
    return chosen, reason


def _nearest(files: list[MeasuredFile], budget: BudgetConfig) -> tuple[MeasuredFile, str]:
    """The file to name where none holds the budget, and what speaks for it."""
    accurate = [file for file in files if file.drop.decisive <= budget.max_drop]
    if not accurate:
        chosen = min(files, key=lambda file: file.drop.decisive)
        return chosen, f"this one loses the least: it {chosen.drop}"
    small = [f for f in accurate if budget.max_bytes is None or f.file_bytes <= budget.max_bytes]
    if small:
        chosen, superlative = min(small, key=lambda file: file.speed), "fastest"
        measured = f"{milliseconds(chosen.speed[0])} ms"
    else:
        chosen, superlative = min(accurate, key=lambda file: file.file_bytes), "smallest"
        measured = f"{chosen.file_bytes:,} bytes"
    return chosen, f"of those that lose no more this one is the {superlative} ({measured})"


def _as_fast_as_the_fastest(files: list[MeasuredFile]) -> list[MeasuredFile]:
    """The file with the lowest p50, and those that are not measurably slower."""
    timed = [file for file in files if file.latency]
    if not timed:
        return files
    fastest = min(timed, key=lambda file: file.speed)
    return [file for file in timed if file is fastest or _is_no_slower(file, fastest)]


def _is_no_slower(file: MeasuredFile, other: MeasuredFile) -> bool:
    if file.latency is None or other.latency is None:
        return False
    speed = difference(file.latency, other.latency)
    return speed is not None and speed.verdict != "slower"


def _as_small_as_the_smallest(files: list[MeasuredFile]) -> list[MeasuredFile]:
    smallest = min(file.file_bytes for file in files)
    return [file for file in files if file.file_bytes <= 1.01 * smallest]


def _behind(file: MeasuredFile, within: list[MeasuredFile]) -> str:
    """Why a file that holds the budget was not chosen."""
    equally_fast = _as_fast_as_the_fastest(within)
    if file not in equally_fast:
        if file.latency is None:
            return "it was not timed"
        fastest = min(equally_fast, key=lambda other: other.speed)
        p50_ms, fastest_ms = milliseconds(file.speed[0]), milliseconds(fastest.speed[0])
        return f"it takes {p50_ms} ms, the fastest {fastest_ms} ms"
    if file not in _as_small_as_the_smallest(equally_fast):
        smallest = min(other.file_bytes for other in equally_fast)
        return f"it has {file.file_bytes:,} bytes, the smallest {smallest:,}"
    return "it loses no less than the chosen one"


def _limits(budget: BudgetConfig, model: str, chosen: MeasuredFile | None = None) -> str:
    """The limits in words, without one on a latency that the chosen file lacks."""
    limits = [f"within {100 * budget.max_drop:.1f} points of {model} on the validation photos"]
    if budget.max_latency_ms is not None and (chosen is None or chosen.latency):
        limits.append(f"{budget.max_latency_ms:g} ms")
    if budget.max_bytes is not None:
        limits.append(f"{budget.max_bytes:,} bytes")
    return " and ".join(limits)
