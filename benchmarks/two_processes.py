"""What it costs to train in two processes of one machine in place of one, on the JAX backend.

    python benchmarks/two_processes.py --out two_processes.jsonl
    python benchmarks/two_processes.py --out two_processes.jsonl --backbone efficientnet_b0 \
        --image-size 64 --data ../shared/data/flowers

Every round trains the same network twice on the same batches: in one process, and in two that talk
over loopback. The order alternates. Seconds are those of the epochs after the first, in which JAX
compiles. Validation is part of an epoch, and one process does it. Rounds are appended to a file,
and the table is made of all rounds in it with the same settings.

On one machine, two processes share the cores that one process has alone. So the ratio says what
the exchange of gradients and the second process cost. It does not say what a second machine gains.
"""

import argparse
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = "from cli import distill; distill()"
ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def epoch_seconds(num_processes: int, words: list[str], folder: Path) -> list[float]:
    """Seconds of each epoch but the first."""
    run, place = folder / f"run-{num_processes}", f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JAX_COORDINATOR_ADDRESS": place,
        "JAX_NUM_PROCESSES": str(num_processes),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, "teacher", *words, "--run", str(run)],
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.DEVNULL,
        )
        for index in range(num_processes)
    ]
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                sys.exit("a training failed, as said above")
            time.sleep(0.1)
        if any(process.returncode for process in processes):
            sys.exit("a training failed, as said above")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    with open(run / "teacher" / "history.csv", newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file that grows")
    parser.add_argument("--data", type=Path, help="a folder of class folders; default: digits")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: expected 2 or more, because JAX compiles in the first one")
    settings = {
        "data": options.data.name if options.data else "digits",
        "backbone": options.backbone,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
    }
    teacher = {
        "backbone": f"{{name: {options.backbone}, weights: null}}",
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
    }
    words = [
        "smoke",
        *(w for key, value in teacher.items() for w in ("--set", f"teacher.{key}={value}")),
    ]
    if options.data:
        words[1:1] = ["--set", "data.source=folder", "--set", f"data.path={options.data}"]
    for number in range(options.rounds):
        seconds = {}
        for num_processes in (1, 2) if number % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                seconds[num_processes] = epoch_seconds(num_processes, words, Path(folder))
        row = {**settings, "one": seconds[1], "two": seconds[2]}
        with open(options.out, "a") as file:
            print(json.dumps(row), file=file)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    rows = [row for row in rows if all(row[key] == value for key, value in settings.items())]
    print("round   one process   two processes   ratio")
    ratios = []
    for number, row in enumerate(rows, start=1):
        one, two = statistics.median(row["one"]), statistics.median(row["two"])
        ratios.append(two / one)
        print(f"{number:5} {one:11.2f} s {two:13.2f} s {two / one:7.2f}")
    print(f"median of {len(ratios)} rounds: {statistics.median(ratios):.2f} {json.dumps(settings)}")


if __name__ == "__main__":
    main()
