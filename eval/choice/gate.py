"""Limits that a file of a report has to hold, for scripts and continuous integration."""

from typing import Any

from configs.errors import UserError
from eval.choice.budget import FileFacts, Limits, not_measured, shortfalls
from eval.choice.drop import Drop


def reported_file(report: Any, name: str | None) -> dict[str, Any]:
    """The entry of a file in a `report.json`; of the chosen file without a name.

    Raises:
        UserError: there is no such file, none was chosen, or the report is incomplete.
    """
    try:
        name = name or report["verdict"]["chosen_file"]
        files = {file["name"]: file for file in report["files"]}
    except (KeyError, TypeError):
        raise UserError("report.json is no report of today's. Run: evaluate report RUN") from None
    if name not in files:
        raise UserError(
            f"the report has no file {name}. Its files: {', '.join(files) or 'none'}. Name one "
            "with --file."
        )
    return dict(files[name])


def gate_shortfalls(file: dict[str, Any], limits: Limits) -> list[str]:
    """One reason for each limit that a file does not hold; an empty list is a pass.

    Args:
        file: an entry of `files` in report.json. Its scores on the test photos count, and its
            latency on the first device.

    Raises:
        UserError: there is no limit, or one on what was not measured.
    """
    if limits == Limits():
        raise UserError(
            "no limit is given. Expected one or more of --min-top1, --max-drop, --max-p90-ms and "
            "--max-bytes."
        )
    scores, latency = file["accuracy"], (file["latency"] or [{}])[0]
    drop = scores["drop_vs_source"]
    facts = FileFacts(
        file["file_bytes"],
        scores.get("split", "test"),
        top1=scores["top1"],
        drop=None if drop is None else Drop.of_count(drop),
        p50_ms=latency.get("p50_ms"),
        p90_ms=latency.get("p90_ms"),
    )
    for name in not_measured(facts, limits):
        raise UserError(f"the {name} of {file['name']} was not measured. Measure it first.")
    return shortfalls(facts, limits)
