"""`evaluate serve` in a process of its own, for tests."""

import json
import subprocess
import sys
from dataclasses import dataclass

import psutil

from support import ROOT


@dataclass
class Service:
    """`evaluate serve` in a process of its own; its last line on standard output lists modules.

    Attributes:
        cpu_seconds: processor time until it answered. Other processes do not change it.
    """

    process: subprocess.Popen[str]
    url: str
    files: list[str]
    cpu_seconds: float


def start(*words: object) -> Service:
    """Start the program on any free port, and wait until it says that it answers."""
    code = "import sys\nfrom cli import evaluate\ntry: evaluate()\nfinally: print(*sys.modules)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, words), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    times = psutil.Process(process.pid).cpu_times()
    assert line.startswith("{"), process.communicate()[1]
    said = json.loads(line)
    return Service(process, said["url"], said["files"], times.user + times.system)
