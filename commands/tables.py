"""The tables that commands print: of files, and of runs."""

from typing import Any

from eval.devices.registry import DeviceCheck
from eval.devices.wheels import RUNTIMES

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
    notes = [
        f"{row['run']}: timed under other conditions than {rows[0]['run']} "
        f"({'; '.join(row['unlike'])})."
        + (" Its latency is left out; --any-state shows it." if row["p50_ms"] is None else "")
        for row in rows
        if row["unlike"]
    ]
    return "\n".join([_aligned([[*columns, "KB", "p against the first"], *cells]), *notes])


def speed_note(rows: list[dict[str, Any]]) -> str:
    """Which files are as fast as the fastest, for all that their times tell; maybe empty."""
    told = [row["latency"][0].get("against_fastest") for row in rows]
    if len(rows) < 2 or None in told:
        return ""
    floor = rows[0]["latency"][0]["noise_floor"]
    fastest = min(rows, key=lambda row: row["latency"][0]["p50_ms"])
    equal = [
        row["name"]
        for row, found in zip(rows, told, strict=True)
        if row is not fastest and found["verdict"] != "slower"
    ]
    others = f"no slower: {', '.join(equal)}" if equal else "the others are slower"
    return f"\nfastest: {fastest['name']}; {others} (noise floor {100 * floor:.1f} %)"


def thermal_table(told: dict[str, dict[str, Any]]) -> str:
    """The p50 of each file in the last interval of every fifth of the time, as aligned text."""
    shown = slice(3, None, 4)
    minutes = [i["minute"] for i in next(iter(told.values()))["intervals"][shown]]
    columns = ["p50 ms at minute", *[f"{minute:.1f}" for minute in minutes], "change %", "°C"]
    cells = []
    for name, found in told.items():
        intervals = found["intervals"]
        change = intervals[-1]["p50_ms"] / intervals[0]["p50_ms"] - 1
        times = [_number(interval["p50_ms"]) for interval in intervals[shown]]
        warmest = intervals[-1].get("temperature_c")
        cells.append([name, *times, f"{100 * change:+.1f}", _number(warmest, 0)])
    return _aligned([columns, *cells])


def profile_table(told: dict[str, dict[str, Any]]) -> str:
    """The operators of each file by what they take, as aligned text."""
    columns = ["file", "operator", "nodes", "ms", "%"]
    cells = []
    for name, found in told.items():
        total = sum(row["ms"] for row in found["operators"])
        for row in found["operators"]:
            share = f"{100 * row['ms'] / total:.1f}"
            cells.append(
                [name, row["operator"], str(row["num_nodes"]), _number(row["ms"], 3), share]
            )
    return _aligned([columns, *cells])


def single_stream_table(told: dict[str, dict[str, Any]]) -> str:
    """One line a file of what a stream of queries took, as aligned text."""
    columns = ["single stream", "queries", "seconds", "p50 ms", "p90 ms", "p99 ms"]
    cells = [
        [
            name,
            str(found["num_queries"]),
            _number(found["seconds"], 0),
            *[_number(found[f"p{n}_ms"]) for n in (50, 90, 99)],
        ]
        for name, found in told.items()
    ]
    return _aligned([columns, *cells])


def devices_table(checks: list[DeviceCheck]) -> str:
    """What the devices are as aligned text, with their problems in the lines below."""
    modules = [module for _, modules in RUNTIMES.values() for module in modules]
    names = [module.replace("_", "-") for module in modules]
    cells = [["device", "processor", "cores", "system", "Python", "runtimes"]]
    for check in checks:
        if check.machine is None:
            cells.append([check.device, "", "", "", "", ""])
            continue
        machine = check.machine
        facts = (machine.cpu, machine.num_cores, machine.os, machine.python)
        texts = ["" if fact is None else str(fact) for fact in facts]
        versions = machine.packages or {}
        runtimes = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
        unknown = "" if machine.packages is None else "none"
        cells.append([check.device, *texts, runtimes or unknown])
    problems = [f"{check.device}: {check.problem}" for check in checks if check.problem]
    return "\n".join([_aligned(cells), *problems])


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
