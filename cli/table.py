"""The tables that commands print: of files, and of runs."""

from typing import Any

COLUMNS = ["file", "KB", "top-1", "95 %", "drop", "same as source", "p50 ms", "p90 ms", "MiB"]


def files_table(rows: list[dict[str, Any]], chosen: str | None = None) -> str:
    """Rows of `files` in report.json as aligned text; `chosen` is marked with an asterisk."""
    return _aligned([COLUMNS, *[_cells(row, chosen) for row in rows]])


def runs_table(rows: list[dict[str, Any]]) -> str:
    """Rows of `evaluate compare` as aligned text."""
    columns = ["run", "photos", "teacher", "student", "control", "file", "top-1", "drop", "p50 ms"]
    cells = [
        [
            row["run"],
            str(row["num_test"]),
            *[_percent(row[f"{role}_top1"]) for role in ("teacher", "student", "control")],
            row["file"],
            _percent(row["top1"]),
            _percent(row["drop_vs_student"]),
            _number(row["p50_ms"]),
            f"{row['file_bytes'] / 1000:.0f}",
            _number(row["mcnemar_p"], 3),
        ]
        for row in rows
    ]
    return _aligned([[*columns, "KB", "p against the first"], *cells])


def candidates_table(candidates: list[dict[str, Any]]) -> str:
    """The candidates of a search, in its order, and why each was turned down."""
    cells = [
        ["candidate", "KB", "same as source", "expected drop", "95 %", "counted", "p50 ms", ""]
    ]
    for each in candidates:
        seen = each["validation"] or {}
        interval = ""
        if seen:
            interval = f"{100 * seen['expected_low']:.1f}-{100 * seen['expected_high']:.1f}"
        cells.append(
            [
                each["name"],
                "" if each["file_bytes"] is None else f"{each['file_bytes'] / 1000:.0f}",
                _percent(seen.get("agreement")),
                _percent(seen.get("expected_drop")),
                interval,
                _percent(seen.get("drop")),
                _number(each["p50_ms"]),
                each["turned_down"] or "chosen",
            ]
        )
    return _aligned(cells, left=(0, len(cells[0]) - 1))


def _aligned(cells: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cells(row: dict[str, Any], chosen: str | None) -> list[str]:
    scores = row.get("accuracy") or {}
    latency = row["latency"][0] if row.get("latency") else {}
    interval = ""
    if scores:
        interval = f"{100 * scores['top1_low']:.1f}-{100 * scores['top1_high']:.1f}"
    return [
        row["name"] + (" *" if row["name"] == chosen else ""),
        f"{row['file_bytes'] / 1000:.0f}",
        _percent(scores.get("top1")),
        interval,
        _percent(scores.get("drop_vs_source")),
        _percent(scores.get("agreement_with_source")),
        _number(latency.get("p50_ms")),
        _number(latency.get("p90_ms")),
        _number(latency.get("peak_rss_mib"), 0),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
