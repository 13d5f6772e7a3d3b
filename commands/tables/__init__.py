"""The tables that commands print: of files, runs, devices and measurements."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.records import from_json
from configs.resume import Facts
from eval.choice.compare import RunRow
from eval.devices.registry import DeviceCheck
from eval.devices.wheels import RUNTIMES
from eval.needs import Runtime, operators_text
from eval.timing.latency import milliseconds

FILE_COLUMNS = [
    "file", "KB", "top-1", "95 %", "drop", "same as parent", "p50 ms", "p90 ms", "MiB", "needs",
    "outside XNNPACK",
]  # fmt: skip
TEXT_COLUMNS = ("file", "needs", "outside XNNPACK")
RUN_COLUMNS = [
    "run", "photos", "teacher", "student", "control", "file", "top-1", "drop", "p50 ms", "KB",
    "p against the first",
]  # fmt: skip
WIDTH = 1000
"""Wider than any table: a terminal may wrap lines, but a table must not lose characters."""


def table_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> str:
    """A table as aligned text without frames, the same on a terminal and in a file.

    Args:
        left: columns that are aligned to the left; the others are numbers.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        justify: Any = "left" if number in left else "right"
        table.add_column(column, justify=justify, no_wrap=True, header_style="")
    for row in rows:
        table.add_row(*row)
    console = Console(width=WIDTH, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def files_table(rows: list[dict[str, Any]], chosen: str | None = None) -> str:
    """Rows of `files` in report.json; the chosen file is marked with an asterisk.

    A file with operators that XNNPACK leaves to slower code names them: they explain a slow file.
    Columns without any text are left out: files without a run have no accuracy.
    """
    cells = [_file_cells(row, chosen) for row in rows]
    filled = [number for number, column in enumerate(zip(*cells, strict=True)) if any(column)]
    columns = [FILE_COLUMNS[number] for number in filled]
    shown = [[row[number] for number in filled] for row in cells]
    texts = [number for number, column in enumerate(columns) if column in TEXT_COLUMNS]
    return table_text(columns, shown, left=texts)


def _outside_xnnpack(row: dict[str, Any]) -> dict[str, int]:
    latency = row["latency"][0] if row.get("latency") else {}
    return (latency.get("delegate") or {}).get("others") or {}


def _file_cells(row: dict[str, Any], chosen: str | None) -> list[str]:
    scores, agreement = row.get("accuracy") or {}, row.get("agreement") or {}
    latency = row["latency"][0] if row.get("latency") else {}
    interval = ""
    if scores:
        interval = f"{100 * scores['top1_low']:.1f}-{100 * scores['top1_high']:.1f}"
    return [
        row["name"] + (" *" if row["name"] == chosen else ""),
        f"{row['file_bytes'] / 1000:.0f}",
        percent(scores.get("top1")),
        interval,
        percent(scores.get("drop_vs_source", agreement.get("expected_drop"))),
        percent({**scores, **agreement}.get("agreement_with_source")),
        latency_text(latency.get("p50_ms")),
        latency_text(latency.get("p90_ms")),
        number(latency.get("peak_rss_mib"), 0),
        from_json(Runtime, row["runtime"]).text if row.get("runtime") else "",
        operators_text(_outside_xnnpack(row)),
    ]


def runs_table(rows: list[RunRow]) -> str:
    """Rows of `evaluate compare`, with notes on runs that were timed under other conditions."""
    cells = [
        [
            row.run,
            str(row.num_test),
            percent(row.teacher_top1),
            percent(row.student_top1),
            percent(row.control_top1),
            row.file,
            percent(row.top1),
            percent(row.drop_vs_student),
            latency_text(row.p50_ms),
            f"{row.file_bytes / 1000:.0f}",
            number(row.mcnemar_p, 3),
        ]
        for row in rows
    ]
    notes = [
        f"{row.run}: timed under other conditions than {rows[0].run} "
        f"({'; '.join(row.unlike)})."
        + (" Its latency is left out; --any-state shows it." if row.p50_ms is None else "")
        for row in rows
        if row.unlike
    ]
    return "\n".join([table_text(RUN_COLUMNS, cells), *notes])


def speed_note(rows: list[dict[str, Any]]) -> str:
    """Which files are as fast as the fastest, as far as their times show; may be empty."""
    comparisons = [row["latency"][0].get("against_fastest") for row in rows]
    if len(rows) < 2 or None in comparisons:
        return ""
    floor = rows[0]["latency"][0]["noise_floor"]
    fastest = min(rows, key=lambda row: row["latency"][0]["p50_ms"])
    equal = [
        row["name"]
        for row, comparison in zip(rows, comparisons, strict=True)
        if row is not fastest and comparison["verdict"] != "slower"
    ]
    others = f"no slower: {', '.join(equal)}" if equal else "the others are slower"
    return f"\nfastest: {fastest['name']}; {others} (noise floor {100 * floor:.1f} %)"


def device_note(rows: list[Facts]) -> str:
    """The device whose times a table shows, the first of each file; empty without times."""
    labels = sorted({row["latency"][0]["device"] for row in rows if row["latency"]})
    return f"\ntimes on {', '.join(labels)}" if labels else ""


def thermal_table(files: dict[str, dict[str, Any]]) -> str:
    """The p50 of each file in the last interval of every fifth of the time."""
    shown = slice(3, None, 4)
    minutes = [i["minute"] for i in next(iter(files.values()))["intervals"][shown]]
    columns = ["p50 ms at minute", *[f"{minute:.1f}" for minute in minutes], "change %", "°C"]
    cells = []
    for name, curve in files.items():
        intervals = curve["intervals"]
        change = intervals[-1]["p50_ms"] / intervals[0]["p50_ms"] - 1
        times = [latency_text(interval["p50_ms"]) for interval in intervals[shown]]
        warmest = intervals[-1].get("temperature_c")
        cells.append([name, *times, f"{100 * change:+.1f}", number(warmest, 0)])
    return table_text(columns, cells)


def profile_table(files: dict[str, dict[str, Any]]) -> str:
    """The operators of each file by the time that they take."""
    cells = []
    for name, profile in files.items():
        total = sum(row["ms"] for row in profile["operators"])
        for row in profile["operators"]:
            share = f"{100 * row['ms'] / total:.1f}"
            time = number(row["ms"], 3)
            cells.append([name, row["operator"], str(row["num_nodes"]), time, share])
    return table_text(["file", "operator", "nodes", "ms", "%"], cells)


def single_stream_table(files: dict[str, dict[str, Any]]) -> str:
    """The times of a stream of queries, one line per file."""
    columns = ["single stream", "queries", "seconds", "p50 ms", "p90 ms", "p99 ms"]
    cells = [
        [
            name,
            str(stream["num_queries"]),
            number(stream["seconds"], 0),
            *[latency_text(stream[f"p{n}_ms"]) for n in (50, 90, 99)],
        ]
        for name, stream in files.items()
    ]
    return table_text(columns, cells)


def devices_table(checks: list[DeviceCheck]) -> str:
    """What the devices are, with their problems in the lines below."""
    modules = [module for _, modules in RUNTIMES.values() for module in modules]
    names = [module.replace("_", "-") for module in modules]
    cells = []
    for check in checks:
        if check.machine is None:
            cells.append([check.device, "", "", "", "", ""])
            continue
        machine = check.machine
        facts = (machine.cpu, machine.num_cores, machine.os, machine.python)
        texts = ["" if fact is None else str(fact) for fact in facts]
        versions = machine.packages or {}
        runtimes = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
        cells.append(
            [check.device, *texts, runtimes or ("" if machine.packages is None else "none")]
        )
    problems = [f"{check.device}: {check.problem}" for check in checks if check.problem]
    columns = ["device", "processor", "cores", "system", "Python", "runtimes"]
    return "\n".join([table_text(columns, cells), *problems])


def candidates_table(candidates: list[dict[str, Any]]) -> str:
    """The candidates of a search in its order, and why each was turned down."""
    columns = [
        "candidate", "KB", "same as parent", "expected drop", "95 %", "counted", "p50 ms", "",
    ]  # fmt: skip
    cells = []
    for candidate in candidates:
        drop = candidate["validation"] or {}
        interval = ""
        if drop:
            interval = f"{100 * drop['expected_low']:.1f}-{100 * drop['expected_high']:.1f}"
        num_bytes = candidate["file_bytes"]
        cells.append(
            [
                candidate["name"],
                "" if num_bytes is None else f"{num_bytes / 1000:.0f}",
                percent(drop.get("agreement")),
                percent(drop.get("expected_drop")),
                interval,
                percent(drop.get("drop")),
                latency_text(candidate["p50_ms"]),
                candidate["turned_down"] or "chosen",
            ]
        )
    return table_text(columns, cells, left=(0, len(columns) - 1))


def percent(share: float | None) -> str:
    """0.1234 -> 12.3."""
    return "" if share is None else f"{100 * share:.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits behind the point."""
    return "" if value is None else f"{value:.{digits}f}"


def latency_text(value: float | None) -> str:
    """A latency in ms, or nothing for an unknown one."""
    return "" if value is None else milliseconds(value)
