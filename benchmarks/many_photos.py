"""Time and memory of a run on 6,000 and on 60,000 photos: does either grow faster than the photos?

    nice python benchmarks/many_photos.py --folder /tmp/many-photos --plot docs/many-photos.svg

The photos are JPEGs of 64 px of three classes, all different, in folders or in WebDataset tars
(--tars). A tiny Keras file is the teacher, and EfficientNet-Lite0
at 32 px learns for one epoch. The steps are processes of their own:

- data: scan and split. scan again: the same command once more.
- label: soft labels of one view of each training photo.
- student: one epoch. It also scores the validation photos.
- accuracy: the answers of teacher, student and its TFLite file on the validation and test photos.

Every measurement is a line of FOLDER/results.jsonl. The same command continues after a kill.
`--table` prints what is there. `busy` is how many cores worked on average. `rest` is the peak
without decoded photos, which the run keeps on purpose while memory is free.
"""

import argparse
import io
import json
import shutil
import statistics
import tarfile
from dataclasses import asdict
from pathlib import Path

from many_unlabelled import CLASSES, cost_of, draw_photos, write_teacher

from eval.report.charts import lines

STEPS = ("data", "scan again", "label", "student", "accuracy")
CONFIG = """
data: {{source: "{source}", path: {path}}}
teacher: {{files: [{{path: teacher.keras, image_size: 32}}]}}
soft_labels: {{num_views: 1}}
student: {{backbone: efficientnet_lite0, image_size: 32, epochs: 1, control: false}}
compress: {{recipes: [{{name: tflite.float32}}]}}
"""
COMMANDS = {"scan again": ("distill", "data"), "accuracy": ("evaluate", "accuracy")}
PHOTOS_IN_A_TAR = 1000
STYLE = """<style>
text { font: 12px sans-serif; fill: #667; } .grid { stroke: #99a; stroke-opacity: .4; }
polyline { fill: none; stroke: #36c; stroke-width: 2; } .label polyline { stroke: #2a2; }
.student polyline { stroke: #d70; } .accuracy polyline { stroke: #a3a; }
circle { fill: #667; } .zero { display: none; }
</style>"""


def make_photos(folder: Path, number: int) -> None:
    """Write `number` photos in folders of classes, unless they are there."""
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for colour, name in enumerate(reversed(CLASSES)):
        part = number * (colour + 1) // 3 - number * colour // 3
        draw_photos(folder / "photos" / name, part, seed=colour, colour=colour)
    (folder / "complete").touch()


def make_tars(folder: Path) -> None:
    """Write the same photos into tars of samples, mixed as a data set would be."""
    target = folder / "tars"
    if (target / "complete").exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    photos = sorted((folder / "photos").rglob("*.jpg"), key=lambda p: (int(p.stem), p.parent.name))
    for start in range(0, len(photos), PHOTOS_IN_A_TAR):
        with tarfile.open(target / f"{start // PHOTOS_IN_A_TAR:04d}.tar", "w") as tar:
            for number, photo in enumerate(photos[start : start + PHOTOS_IN_A_TAR], start):
                for kind, content in (
                    ("jpg", photo.read_bytes()), ("cls", photo.parent.name.encode())
                ):  # fmt: skip
                    info = tarfile.TarInfo(f"{number:06d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (target / "complete").touch()


def measure_round(place: Path, number: int, *, tars: bool) -> list[dict]:
    """All steps of one run, and what each took."""
    kind = "tars" if tars else "photos"
    shutil.rmtree(place / "run", ignore_errors=True)
    config = CONFIG.format(
        source="webdataset" if tars else "folder", path=place / str(number) / kind
    )
    (place / "config.yaml").write_text(config)
    rows = []
    for step in ("data", "scan again", "teacher", "label", "student", "export", "accuracy"):
        program = "compress" if step == "export" else "distill"
        program, name = COMMANDS.get(step, (program, step))
        cost = cost_of(
            name, "config.yaml", "run", place=place, num_photos=number, program=program
        )  # fmt: skip
        if step in STEPS:
            row = {**asdict(cost), "step": step}
            if step not in ("label", "student"):  # only these keep decoded photos
                row["rest_mib"] = row["peak_mib"]
            rows.append({"kind": kind, **row})
    return rows


def median_of(rows: list[dict], step: str, number: int, key: str) -> float:
    return statistics.median(
        row[key] for row in rows if (row["step"], row["num_photos"]) == (step, number)
    )


def print_table(rows: list[dict]) -> None:
    """Medians over the rounds of each kind of input."""
    for kind in sorted({row["kind"] for row in rows}):
        of_kind = [row for row in rows if row["kind"] == kind]
        numbers = sorted({row["num_photos"] for row in of_kind})
        print(f"{kind}, medians of {min(count_rounds(of_kind, n) for n in numbers)} rounds")
        print("step        photos  seconds  processor  ms a photo  busy  peak MiB  rest MiB  ratio")
        for step in STEPS:
            first: float | None = None
            for number in numbers:
                seconds, cpu, peak, rest = (
                    median_of(of_kind, step, number, key)
                    for key in ("seconds", "cpu_seconds", "peak_mib", "rest_mib")
                )
                each = seconds / number
                first = first or each
                print(
                    f"{step:11} {number:7} {seconds:8.1f} {cpu:10.1f} {1000 * each:11.2f} "
                    f"{cpu / seconds:5.2f} {peak:9.0f} {rest:9.0f} {each / first:6.2f}"
                )


def count_rounds(rows: list[dict], number: int) -> int:
    return sum((row["step"], row["num_photos"]) == (STEPS[-1], number) for row in rows)


def plot(rows: list[dict], path: Path) -> None:
    """The peak of memory without decoded photos, by the number of photos."""
    numbers = sorted({row["num_photos"] for row in rows})
    series = {
        step: [(n / 1000, median_of(rows, step, n, "rest_mib")) for n in numbers]
        for step in STEPS
        if step != "scan again"
    }
    series["zero"] = [(0.0, 0.0)]  # both axes begin there
    chart = lines(series, x_title="thousand photos", y_title="MiB", percent=False)
    chart = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    path.write_text(chart.replace("</svg>", f"{STYLE}</svg>") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[6_000, 60_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True, help="for photos and results")
    parser.add_argument("--tars", action="store_true", help="read WebDataset tars")
    parser.add_argument("--table", action="store_true", help="print what was measured, and stop")
    parser.add_argument("--plot", type=Path, help="write the memory by the number of photos as SVG")
    options = parser.parse_args()
    place = options.folder.resolve()
    place.mkdir(parents=True, exist_ok=True)
    results = place / "results.jsonl"
    stored = results.read_text().splitlines() if results.exists() else []
    rows = [json.loads(line) for line in stored]
    if not (place / "teacher.keras").exists():
        write_teacher(place / "teacher.keras")
    kind = "tars" if options.tars else "photos"
    for _ in range(0 if options.table else options.rounds):
        for number in options.photos:
            of_kind = [row for row in rows if row["kind"] == kind]
            if count_rounds(of_kind, number) >= options.rounds:
                continue
            make_photos(place / str(number), number)
            if options.tars:
                make_tars(place / str(number))
            new = measure_round(place, number, tars=options.tars)
            rows += new
            with open(results, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    print_table(rows)
    if options.plot and rows:
        plot([row for row in rows if row["kind"] == kind], options.plot)


if __name__ == "__main__":
    main()
