"""Requests to `evaluate serve`, several at a time: errors, times and memory.

    python benchmarks/service.py FILE --data PHOTOS --json
    python benchmarks/service.py RUN --data PHOTOS --requests 2000 --parallel 8 --json

The service and its clients share this machine. Each client keeps one connection and sends photos in
turn, one after the other. A time is what a client waits, from its first byte to the last one of the
answer. Memory is the resident set of the service, before and after each tenth of the requests.
"""

import argparse
import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

BOUNDARY = "part"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
NUM_PHOTOS = 100
TENTHS = 10


def form(photo: bytes) -> bytes:
    """A photo as the body of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo"\r\n\r\n'
    return head.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def start_service(target: Path, workers: int) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
    """`evaluate serve` on a free port of this machine, and what it says when it answers."""
    code = "from cli import evaluate; evaluate()"
    words = [str(target), "--port", "0", "--workers", str(workers), "--json", "--quiet"]
    service = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *words], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    line = service.stdout.readline()
    if not line:
        sys.exit(service.wait())
    return service, json.loads(line)


def ask(url: str, bodies: Iterator[bytes], times_ms: list[float], errors: list[str]) -> None:
    """One client: sends photos until there are none left."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    for body in bodies:
        start = time.perf_counter()
        try:
            connection.request("POST", "/predict", body, HEADERS)
            response = connection.getresponse()
            content = response.read()
        except OSError as error:
            errors.append(repr(error))
            connection.close()
            continue
        times_ms.append(1000 * (time.perf_counter() - start))
        if response.status != 200:
            errors.append(f"{response.status} {content[:200]!r}")
    connection.close()


class Shared(Iterator[bytes]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[bytes]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __next__(self) -> bytes:
        with self._lock:
            return next(self._items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="a run, or a .tflite or .onnx file")
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    paths = sorted(p for p in arguments.data.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    photos = random.Random(0).sample(paths, min(NUM_PHOTOS, len(paths)))
    bodies = [form(path.read_bytes()) for path in photos]
    begin = time.perf_counter()
    service, said = start_service(arguments.target, arguments.workers)
    start_s = time.perf_counter() - begin
    process = psutil.Process(service.pid)
    times_ms: list[float] = []
    errors: list[str] = []
    rss_mib = [process.memory_info().rss / 2**20]
    begin = time.perf_counter()
    for _ in range(TENTHS):
        turns = Shared(itertools.islice(itertools.cycle(bodies), arguments.requests // TENTHS))
        clients = [
            threading.Thread(target=ask, args=(said["url"], turns, times_ms, errors))
            for _ in range(arguments.parallel)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        rss_mib.append(process.memory_info().rss / 2**20)
    seconds = time.perf_counter() - begin
    service.terminate()
    result = {
        "file": said["files"][0],
        "num_requests": len(times_ms),
        "parallel": arguments.parallel,
        "workers": arguments.workers,
        "errors": errors,
        "start_s": round(start_s, 2),
        "requests_per_s": round(len(times_ms) / seconds, 1),
        "p50_ms": round(float(np.percentile(times_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 2),
        "max_ms": round(max(times_ms), 2),
        "rss_mib": [round(value, 1) for value in rss_mib],
        "exit_code": service.wait(30),
    }
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
