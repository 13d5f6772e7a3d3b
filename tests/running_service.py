"""`evaluate serve` in a process of its own, for tests."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

from support import ROOT


@dataclass
class Service:
    """`evaluate serve` in a process of its own; its last line on standard output lists modules."""

    process: subprocess.Popen[str]
    url: str
    files: list[str]
    seconds: float


def start(*words: object) -> Service:
    """Start the program on any free port, and wait until it says that it answers."""
    code = "import sys\nfrom cli import evaluate\ntry: evaluate()\nfinally: print(*sys.modules)\n"
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, words), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    assert line.startswith("{"), process.communicate()[1]
    said = json.loads(line)
    return Service(process, said["url"], said["files"], seconds)
