"""Time and memory of scans of many tiny files: the first, one of the same files, one of more.

    nice python benchmarks/million_files.py --files 1000000 --folder /tmp/many --plot docs/scan.svg

The files are PNGs of 8 x 8 pixels, all different, of ten classes, a thousand in a folder. Each scan
is `distill data` in a process of its own:

- first: every file is opened.
- again: nothing changed, and the command finds that out.
- one percent more: so many files are new; the others are not opened.

Every measurement is a line of FOLDER/results.jsonl. The same command continues after a kill: files
and measurements that are there stay. `--table` prints what is there. Memory is asked for twice a
second. `own` leaves out pages of files that the system can take away at any moment.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from eval.report.charts import lines

ROOT = Path(__file__).parents[1]
NUM_CLASSES, IN_A_FOLDER, SIDE = 10, 1000, 8
SCANS = ("first", "again", "one percent more")
SECONDS_BETWEEN = 0.5
STYLE = """<style>
text { font: 12px sans-serif; fill: #667; } .grid { stroke: #99a; stroke-opacity: .4; }
polyline { fill: none; stroke-width: 2; } circle { display: none; }
polyline { stroke: #36c; } .first polyline { stroke: #36c; } .again polyline { stroke: #2a2; }
.more polyline { stroke: #d70; }
</style>"""


def png(number: int) -> bytes:
    """A grey photo that differs from that of every other number."""
    rows = b"".join(
        b"\0" + (number * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9).to_bytes(16, "big")[-SIDE:]
        for row in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def make_files(folder: Path, numbers: range) -> None:
    """Write the files of these numbers, unless they are there."""
    for start in range(numbers.start, numbers.stop, IN_A_FOLDER):
        part = start // IN_A_FOLDER
        parent = folder / f"class{part % NUM_CLASSES}" / f"{part:05d}"
        end = min(start + IN_A_FOLDER, numbers.stop)
        parent.mkdir(parents=True, exist_ok=True)
        if len(os.listdir(parent)) == end - start:
            continue
        for number in range(start, end):
            (parent / f"{number:07d}.png").write_bytes(png(number))


def memory_mib(process: int) -> tuple[float, float]:
    """Resident memory of a process, and its own part of it."""
    rows = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines()
    )
    return tuple(int(rows.get(name, "0 kB").split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))


def sampled(process: int) -> Iterator[tuple[float, float, float]]:
    """(seconds, MiB, own MiB) until a process ends; it stays a zombie."""
    start = time.monotonic()
    while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        resident, own = memory_mib(process)
        if resident:  # a process that is about to end has none
            yield round(time.monotonic() - start, 1), round(resident), round(own)
        time.sleep(SECONDS_BETWEEN)


def scan(folder: Path, run: Path) -> dict:
    """Take `distill data` in a process of its own; returns what it took."""
    code = "import sys; from cli import distill; sys.argv[0] = 'distill'; distill()"
    start = time.monotonic()
    with open(run.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "data", folder, "--run", run, "--json", "--quiet"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        curve = list(sampled(process.pid))
        assert process.stdout is not None
        facts = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"distill data failed: {run.with_suffix('.log').read_text()}"
    return {
        "num_photos": sum(facts[f"num_{split}"] for split in ("train", "validation", "test")),
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "own_peak_mib": max(own for _, _, own in curve),
        "curve": curve[:: max(len(curve) // 200, 1)],
    }


def print_table(rows: list[dict]) -> None:
    print("files      scan              seconds  processor  us a file  peak MiB  own MiB")
    for row in rows:
        us = 1e6 * row["cpu_seconds"] / row["num_photos"]
        print(
            f"{row['files']:<10} {row['scan']:17} {row['seconds']:7} {row['cpu_seconds']:10} "
            f"{us:10.0f} {row['peak_mib']:9} {row['own_peak_mib']:8}"
        )


def plot(rows: list[dict], path: Path) -> None:
    """The memory of the scans of the most files, by time."""
    most = max(row["files"] for row in rows)
    series = {
        row["scan"]: [(0.0, 0.0), *((at, float(own)) for at, _, own in row["curve"])]
        for row in rows
        if row["files"] == most
    }
    chart = lines(series, x_title="seconds", y_title="MiB", percent=False)
    chart = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(chart.replace("</svg>", f"{STYLE}</svg>") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="for files and results")
    parser.add_argument("--table", action="store_true", help="print what was measured, and stop")
    parser.add_argument("--plot", type=Path, help="write the memory of the largest scans as SVG")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "results.jsonl"
    lines_of_results = results.read_text().splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines_of_results]
    for number in [] if options.table else options.files:
        photos, run = options.folder / f"{number}", options.folder / f"run-{number}"
        for name in SCANS:
            if any((row["files"], row["scan"]) == (number, name) for row in rows):
                continue
            if name == "first":
                shutil.rmtree(run, ignore_errors=True)
            more = max(number // 100, 1) if name == SCANS[-1] else 0
            make_files(photos, range(number + more))
            row = {"files": number, "scan": name, **scan(photos, run)}
            assert row["num_photos"] == number + more, row
            rows.append(row)
            with open(results, "a") as file:
                file.write(json.dumps(row) + "\n")
    print_table(rows)
    if options.plot and rows:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
