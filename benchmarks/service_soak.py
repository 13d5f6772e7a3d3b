"""`evaluate serve` under load on loopback: memory, errors and times, for an hour.

    python benchmarks/service_soak.py FILE --data PHOTOS --minutes 60 --out soak.jsonl
    python benchmarks/service_soak.py FILE --minutes 1    # a try, on photos that the script makes

Eight clients send requests one after the other: good photos, of many sizes, and a fifth of all
that must be refused (damaged, cut short, too large, no form, no photo, an unknown file, a client
that goes away in the middle of an upload). An answer with another status than expected is an error.

Memory is the resident set of the service, every ten seconds. Photos in progress count as well, so
the median of a minute is compared: after the first five minutes (or a third of a shorter run) the
largest median may exceed the smallest by 5 %. The script exits with 1 if it does, or on any error.

Each line of the JSON-lines file is a sample of memory, a minute, or the result. A started file
grows: the last result counts.
"""

import argparse
import http.client
import io
import itertools
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from PIL import Image
from service import HEADERS, form, start_service

SECONDS_PER_SAMPLE = 10
WARM_UP_MINUTES = 5
MAX_GROWTH = 0.05
NUM_PHOTOS = 100
SIDES = (96, 224, 640, 1600)
"""Sizes of the photos that the script makes, in pixels."""


@dataclass(frozen=True)
class Query:
    """A request, and the status that it must get.

    Attributes:
        status: None for a client that does not wait for an answer.
    """

    kind: str
    method: str
    path: str
    status: int | None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a client got: the status, the time that it waited, and what was wrong."""

    kind: str
    ms: float
    error: str = ""


def made_photo(side: int, seed: int, kind: str = "JPEG") -> bytes:
    """A photo of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def photos_of(folder: Path | None) -> list[bytes]:
    """Photos of a folder, or photos that are made here."""
    if folder is None:
        kinds = ("JPEG", "PNG", "WEBP")
        sides = itertools.islice(itertools.cycle(SIDES), NUM_PHOTOS // 4)
        return [made_photo(side, seed, kinds[seed % 3]) for seed, side in enumerate(sides)]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    chosen = random.Random(0).sample(paths, min(NUM_PHOTOS, len(paths)))
    return [path.read_bytes() for path in chosen]


def good_queries(photos: list[bytes], files: list[str]) -> list[Query]:
    """Requests that are answered."""
    of_photos = [
        Query("photo", "POST", f"/predict?file={file}", 200, form(photo), HEADERS)
        for photo in photos
        for file in files
    ]
    pages = ("/health", "/metadata", "/", "/openapi.json")
    return [*of_photos, *(Query("page", "GET", path, 200) for path in pages)]


def bad_queries(photo: bytes) -> list[Query]:
    """Requests that are refused, each with its status."""

    def upload(kind: str, status: int | None, content: bytes) -> Query:
        return Query(kind, "POST", "/predict", status, form(content), HEADERS)

    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")  # 50 kB that would be 400 megapixels
    rng = np.random.default_rng(0)
    small = [
        upload("empty", 422, b""),
        upload("no photo", 415, b"this is text"),
        upload("noise", 415, rng.bytes(5000)),
        upload("cut short", 422, photo[: len(photo) // 2]),
        upload("too many pixels", 413, bomb.getvalue()),
        upload("gone", None, photo),
        Query("no form", "POST", "/predict", 415, photo, {"Content-Type": "image/jpeg"}),
        Query("form cut short", "POST", "/predict", 422, form(photo)[:-40], HEADERS),
        Query("damaged form", "POST", "/predict", 400, b"--" + bytes(5000), HEADERS),
        Query("other field", "POST", "/predict", 422, _renamed(form(photo)), HEADERS),
        Query("unknown file", "POST", "/predict?file=none", 404, form(photo), HEADERS),
        Query("unknown page", "GET", "/files/..%2f..%2fetc%2fpasswd", 404),
    ]
    return [*small * 10, upload("too many bytes", 413, bytes(21 << 20))]


def _renamed(body: bytes) -> bytes:
    return body.replace(b'name="image"', b'name="picture"', 1)


class Clients:
    """Threads that send requests until they are stopped."""

    def __init__(self, url: str, good: list[Query], bad: list[Query]) -> None:
        self._address, self._good, self._bad = urlsplit(url).netloc, good, bad
        self._answers: list[Answer] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, num_clients: int) -> None:
        """Start so many clients."""
        for seed in range(num_clients):
            thread = threading.Thread(target=self._run, args=(random.Random(seed),))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let every client finish its request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> list[Answer]:
        """The answers since the last call."""
        with self._lock:
            answers, self._answers = self._answers, []
        return answers

    def _run(self, chance: random.Random) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._stop.is_set():
            query = chance.choice(self._good if chance.random() < 0.8 else self._bad)
            answer = self._ask(connection, query)
            with self._lock:
                self._answers.append(answer)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, query: Query) -> Answer:
        begin = time.perf_counter()
        error = ""
        try:
            if query.status is None:
                _go_away(connection, query)
            else:
                connection.request(query.method, query.path, query.body, query.headers)
                response = connection.getresponse()
                content = response.read()
                if response.status != query.status:
                    error = (
                        f"{query.kind}: {response.status}, not {query.status}: {content[:200]!r}"
                    )
        except (OSError, http.client.HTTPException) as problem:
            error = f"{query.kind}: {problem!r}"
            connection.close()
        return Answer(query.kind, 1000 * (time.perf_counter() - begin), error)


def _go_away(connection: http.client.HTTPConnection, query: Query) -> None:
    """Send half of a request and hang up."""
    connection.close()
    connection.putrequest(query.method, query.path)
    for name, value in {**query.headers, "Content-Length": str(len(query.body))}.items():
        connection.putheader(name, value)
    connection.endheaders(query.body[: len(query.body) // 2])
    connection.close()


def minute_of(answers: list[Answer], rss_mib: list[float], minute: int) -> dict[str, Any]:
    """A line of the table."""
    times = [a.ms for a in answers if a.kind == "photo" and not a.error]
    p50, p99 = np.percentile(times, [50, 99]) if times else (float("nan"),) * 2
    return {
        "minute": minute,
        "num_requests": len(answers),
        "num_photos": len(times),
        "errors": dict(Counter(a.error for a in answers if a.error).most_common(10)),
        "num_errors": sum(bool(a.error) for a in answers),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "rss_mib": round(statistics.median(rss_mib), 1),
        "kinds": dict(Counter(a.kind for a in answers)),
    }


def growth(minutes: list[dict[str, Any]], warm_up: int) -> float:
    """By how much the largest median of a minute exceeds the smallest, after the first minutes."""
    rss = [minute["rss_mib"] for minute in minutes[warm_up:]]
    return max(rss) / min(rss) - 1


def soak(
    process: psutil.Process, clients: Clients, num_minutes: int, write: Callable[[Any], None]
) -> list[dict[str, Any]]:
    """Watch the service for so many minutes; returns a line for each."""
    minutes: list[dict[str, Any]] = []
    begin = time.monotonic()
    samples_per_minute = 60 // SECONDS_PER_SAMPLE
    rss_mib: list[float] = []
    for number in range(1, num_minutes * samples_per_minute + 1):
        time.sleep(max(begin + number * SECONDS_PER_SAMPLE - time.monotonic(), 0))
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            write({"error": "the service ended"})
            sys.exit("the service ended")
        rss_mib.append(process.memory_info().rss / 2**20)
        write({
            "seconds": round(time.monotonic() - begin, 1), "rss_mib": round(rss_mib[-1], 1),
            "num_threads": process.num_threads(), "num_open_files": process.num_fds(),
        })  # fmt: skip
        if number % samples_per_minute == 0:
            minute = minute_of(clients.taken(), rss_mib, number // samples_per_minute)
            minutes.append(minute)
            write(minute)
            print(row_of(minute), flush=True)
            rss_mib = []
    return minutes


HEAD = f"{'minute':>6} {'requests':>9} {'errors':>7} {'p50 ms':>8} {'p99 ms':>8} {'RSS MiB':>8}"


def row_of(minute: dict[str, Any]) -> str:
    """A line of the table, for people."""
    return (
        f"{minute['minute']:6} {minute['num_requests']:9,} {minute['num_errors']:7} "
        f"{minute['p50_ms']:8.1f} {minute['p99_ms']:8.1f} {minute['rss_mib']:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path, help="a run, or a .tflite or .onnx file")
    parser.add_argument("--data", type=Path, help="a folder of photos; without it, made ones")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
    options = parser.parse_args()

    photos = photos_of(options.data)
    service, said = start_service(options.target, options.workers)
    files = [Path(file).name for file in said["files"]]
    clients = Clients(said["url"], good_queries(photos, files), bad_queries(photos[0]))
    print(f"{said['url']} {', '.join(files)}\n{HEAD}", flush=True)
    with open(options.out, "a") as out:

        def write(value: Any) -> None:
            out.write(json.dumps(value) + "\n")
            out.flush()

        try:
            clients.start(options.clients)
            minutes = soak(psutil.Process(service.pid), clients, options.minutes, write)
        finally:
            clients.stop()
            service.terminate()
        warm_up = min(WARM_UP_MINUTES, options.minutes // 3)
        result = {
            "num_minutes": options.minutes,
            "num_clients": options.clients,
            "num_workers": options.workers,
            "files": files,
            "num_requests": sum(minute["num_requests"] for minute in minutes),
            "num_errors": sum(minute["num_errors"] for minute in minutes),
            "warm_up_minutes": warm_up,
            "growth": round(growth(minutes, warm_up), 4),
            "exit_code": service.wait(30),
        }
        write(result)
    is_flat = result["growth"] <= MAX_GROWTH
    print(
        f"{result['num_requests']:,} requests, {result['num_errors']} errors; memory "
        f"{'is flat' if is_flat else 'GROWS'}: {result['growth']:.1%} between the minutes after "
        f"the first {warm_up}; exit code {result['exit_code']}"
    )
    sys.exit(not is_flat or bool(result["num_errors"]) or bool(result["exit_code"]))


if __name__ == "__main__":
    main()
