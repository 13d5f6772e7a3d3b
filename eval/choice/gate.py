"""A line that a measured file must not fall below, for scripts and continuous integration."""

from typing import Any

from configs.errors import UserError


def chosen_row(report: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The row of a file in `report.json`; of the chosen one without a name.

    Raises:
        UserError: there is no such file, or none was chosen, or it is no whole report.
    """
    try:
        name = name or report["verdict"]["chosen_file"]
        rows = {row["name"]: row for row in report["files"]}
    except (KeyError, TypeError):
        raise UserError("report.json is no report of today's. Run: evaluate report RUN") from None
    if name not in rows:
        raise UserError(
            f"the report has no file {name}. Its files: {', '.join(rows) or 'none'}. Name one with "
            "--file."
        )
    return dict(rows[name])


def shortfalls(
    row: dict[str, Any],
    *,
    min_top1: float | None = None,
    max_drop: float | None = None,
    max_p90_ms: float | None = None,
    max_bytes: int | None = None,
) -> list[str]:
    """What a file falls short of, a sentence each; none of a file that passes.

    Args:
        row: of `files` in report.json; the latency of its first device counts.
        min_top1: least share of right answers on the test photos.
        max_drop: most top-1 that it may lose against the model it was made from.
        max_p90_ms: most milliseconds that 90 % of its runs may take.
        max_bytes: largest size.

    Raises:
        UserError: no limit is given, or one on what was not measured.
    """
    scores, latency = row["accuracy"], row["latency"]
    p90_ms = latency[0]["p90_ms"] if latency else None
    limits = [
        ("top-1", scores["top1"], min_top1, False, "{:.4f}"),
        ("drop", scores["drop_vs_source"], max_drop, True, "{:.4f}"),
        ("p90", p90_ms, max_p90_ms, True, "{:.3f} ms"),
        ("size", row["file_bytes"], max_bytes, True, "{:,} bytes"),
    ]
    given = [limit for limit in limits if limit[2] is not None]
    if not given:
        raise UserError(
            "no limit is given. Expected one or more of --min-top1, --max-drop, --max-p90-ms and "
            "--max-bytes."
        )
    found = []
    for name, value, bound, is_maximum, unit in given:
        if value is None:
            raise UserError(f"the {name} of {row['name']} was not measured. Measure it first.")
        if value > bound if is_maximum else value < bound:
            side = "above" if is_maximum else "below"
            found.append(f"{name} {unit.format(value)} is {side} {unit.format(bound)}")
    return found
