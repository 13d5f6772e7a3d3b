"""What Ray costs: the same labels by one process and by the workers of this machine, in turn.

    python benchmarks/ray_labels.py --photos 512 2048 --rounds 3 --out build/ray-labels.jsonl

Each round labels the same run with each number of photos, once each way. A line of JSON is added
after every labelling, so a benchmark that was stopped goes on. The table says the seconds of the
step, with the start of Ray and of its workers. From the two numbers of photos follow the seconds
that each way needs at its start, and for a thousand views. Both ways use all cores, so two workers
on two cores promise no gain.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from configs.artifacts import file_sha256, read_json

ROOT = Path(__file__).resolve().parents[1]
WAYS = {"one process": "", "ray": " --on ray"}
CONFIG = """
data: {{path: photos}}
teacher: {{backbone: {{name: {backbone}, weights: null}}, image_size: {size}, epochs: 1}}
soft_labels: {{num_views: {views}}}
student: {{backbone: {{name: {backbone}, weights: null}}, image_size: {size}, epochs: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs=2, default=[512, 2048])
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/ray-labels.jsonl"))
    options = parser.parse_args()
    folder = options.out.with_suffix("").resolve()
    setup = {k: v for k, v in vars(options).items() if k in ("views", "backbone", "size")}
    for num_photos in options.photos:
        prepare(place_of(folder, num_photos, setup), num_photos, setup)
    done = rows_of(options.out, setup)
    for number in range(options.rounds):
        for num_photos in options.photos:
            for way in WAYS:
                if not any(
                    (row["round"], row["photos"], row["way"]) == (number, num_photos, way)
                    for row in done
                ):
                    row = {"round": number, "photos": num_photos, "way": way, **setup}
                    row |= label(place_of(folder, num_photos, setup), way)
                    with open(options.out, "a") as file:
                        file.write(json.dumps(row) + "\n")
    print(table(rows_of(options.out, setup), options.photos))


def place_of(folder: Path, num_photos: int, setup: dict[str, object]) -> Path:
    """The folder of a run; other networks and sizes have another one."""
    return folder / "-".join(map(str, (num_photos, *setup.values())))


def prepare(place: Path, num_photos: int, setup: dict[str, object]) -> None:
    """Photos of noise in three colours, and a finished teacher."""
    if (place / "run" / "teacher" / "manifest.json").exists():
        return
    rng = np.random.default_rng(1)
    for number in range(num_photos):
        path = place / "photos" / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        coarse[..., number % 3] //= 2
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(path)
    (place / "config.yaml").write_text(CONFIG.format(**setup))
    for step in ("data", "teacher"):
        command(f"distill {step} config.yaml --run run", place)


def label(place: Path, way: str) -> dict[str, object]:
    """Make all labels anew; returns the seconds of the step and the digest of the file."""
    labels = place / "run" / "soft_labels"
    shutil.rmtree(labels, ignore_errors=True)
    command(f"distill label config.yaml --run run{WAYS[way]}", place)
    (manifest,) = labels.glob("*.json")
    facts = read_json(manifest)
    return {
        "seconds": facts["seconds"],
        "num_views": facts["num_examples"] * facts["num_views"],
        "sha256": file_sha256(manifest.with_suffix(".npy")),
    }


def command(words: str, place: Path) -> None:
    program, *arguments = words.split()
    code = f"from cli import {program}; {program}()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=place, env=environment, check=True)


def rows_of(out: Path, setup: dict[str, object]) -> list[dict[str, object]]:
    """What was measured before with this setup."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return [row for row in rows if setup.items() <= row.items()]


def table(rows: list[dict[str, object]], photos: list[int]) -> str:
    """Medians over the rounds, and whether all files of a number of photos are equal."""
    lines = ["photos  views  " + "  ".join(f"{way:>12}" for way in WAYS) + "  overhead  equal"]
    medians: dict[tuple[int, str], float] = {}
    num_views: dict[int, int] = {}
    for number in photos:
        of_number = [row for row in rows if row["photos"] == number]
        num_views[number] = int(str(of_number[0]["num_views"]))
        for way in WAYS:
            seconds = [float(str(row["seconds"])) for row in of_number if row["way"] == way]
            medians[number, way] = statistics.median(seconds)
        one, ray = (medians[number, way] for way in WAYS)
        equal = "yes" if len({row["sha256"] for row in of_number}) == 1 else "NO"
        lines.append(
            f"{number:6}  {num_views[number]:5}  {one:11.1f}s  {ray:11.1f}s  "
            f"{100 * (ray / one - 1):7.0f}%  {equal}"
        )
    few, many = photos
    for way in WAYS:
        rate = (medians[many, way] - medians[few, way]) / (num_views[many] - num_views[few])
        start = medians[few, way] - rate * num_views[few]
        lines.append(f"{way}: {start:.1f} s at the start, {1000 * rate:.2f} s for 1,000 views")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
