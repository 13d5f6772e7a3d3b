"""Limits that a file of a report has to hold, for scripts and continuous integration."""

from configs.errors import UserError
from eval.choice.budget import FileFacts, Limits, not_measured, shortfalls
from eval.choice.drop import Drop
from eval.choice.stored_report import StoredFile


def gate_shortfalls(file: StoredFile, limits: Limits) -> list[str]:
    """One reason for each limit that a file does not hold; an empty list is a pass.

    Args:
        file: its scores on the test photos count, and its latency on the first device.

    Raises:
        UserError: there is no limit, or one on what was not measured.
    """
    if limits == Limits():
        raise UserError(
            "no limit is given. Expected one or more of --min-top1, --max-drop, --max-p90-ms and "
            "--max-bytes."
        )
    scores, latency = file.accuracy, file.first_latency
    facts = FileFacts(
        file.file_bytes,
        scores.split,
        top1=scores.top1,
        drop=None if scores.drop is None else Drop.of_count(scores.drop),
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
    )
    for name in not_measured(facts, limits):
        raise UserError(f"the {name} of {file.name} was not measured. Measure it first.")
    return shortfalls(facts, limits)
