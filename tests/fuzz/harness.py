"""Give mutated inputs to the product in forked processes, and watch what becomes of each.

The parent imports what a kind of input needs and forks. So a thousand inputs pay once for the
import of TensorFlow, and a crash costs one input. Input NUMBER of a kind and a seed is always the
same: `python tests/fuzz/run.py KIND --seed SEED --only NUMBER` repeats it.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import errors as product
from configs.errors import IS_OPEN, OPENS, shortened

MAX_SECONDS = 60.0
"""An input that takes longer hangs."""
MAX_GROWTH_BYTES = 2 * 2**30
"""An input of some kilobytes may not take more memory. Decoding of photos may take half of it."""
BATCH = 500
"""Inputs that one process takes one after the other."""
MAX_MESSAGE = 8000
LAST_RESORT = "Run again with --debug"
"""A message that says so is the program's answer to an error that nobody foresaw."""

ROOT = Path(__file__).resolve().parents[2]
FINE = ("accepted", "refused", "crash that names the file")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
TALKS = ("socket.connect", "socket.sendto", "urllib.Request", "webbrowser.open")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        imports: modules that are imported before the processes fork.
        write_seeds: writes whole inputs into a folder, which are then mutated.
        make: one input from (random numbers, folder of the seeds, an empty folder).
        check: gives it to the product as a command does, and may raise what a command may raise.
        words: the command that gives it to the product, program first.
        refusals: errors of the product that its commands turn into a sentence.
    """

    imports: tuple[str, ...]
    write_seeds: Callable[[Path], None]
    make: Callable[[random.Random, Path, Path], Any]
    check: Callable[[Any], None]
    words: Callable[[Any], list[str]]
    refusals: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        what: "accepted", "refused" with a clear sentence, or the fault: "unclear", "crash",
            "hang", "memory" or "executed".
        text: the sentence, or the end of the traceback.
    """

    number: int
    what: str
    text: str
    seconds: float

    @property
    def is_fault(self) -> bool:
        """Whether the input ended in any other way than it should."""
        return self.what not in FINE


def fuzz(
    name: str, kind: Kind, numbers: Iterable[int], *, seed: int, work: Path
) -> Iterator[Outcome]:
    """The outcomes of the inputs of these numbers, in their order.

    Args:
        work: a folder for the seeds and the inputs.
    """
    seeds = write_seeds(name, kind, work)
    waiting = list(numbers)
    while waiting:
        for outcome in _batch(name, kind, waiting[:BATCH], seed, seeds, work / "inputs"):
            yield outcome
            waiting.remove(outcome.number)


def write_seeds(name: str, kind: Kind, work: Path) -> Path:
    """The folder of the seeds, which are written once; afterwards the kind's modules are here."""
    for module in ("cli", *kind.imports):
        importlib.import_module(module)
    seeds = work / "seeds" / name
    if not seeds.is_dir():
        _in_fork(lambda: _write_seeds(kind, seeds))
    return seeds


def make_input(name: str, kind: Kind, number: int, *, seed: int, seeds: Path, folder: Path) -> Any:
    """Input `number`, written into an empty folder."""
    return kind.make(random.Random(f"{name} {seed} {number}"), seeds, folder)


def _write_seeds(kind: Kind, seeds: Path) -> None:
    unfinished = seeds.with_name(f"{seeds.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        kind.write_seeds(unfinished)  # a hostile one writes its file where it is made
    unfinished.rename(seeds)


def _in_fork(work: Callable[[], None]) -> None:
    """Do something in a process of its own, because TensorFlow cannot be forked once it worked."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the seeds could not be written: status {status}")


def _batch(
    name: str, kind: Kind, numbers: list[int], seed: int, seeds: Path, inputs: Path
) -> Iterator[Outcome]:
    """The outcomes of these inputs, up to the first one that ends its process."""
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    errors = inputs.with_name("errors.txt")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            _be_child(name, kind, numbers, seed, seeds, inputs, errors, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe:
        try:
            yield from _watched(child, pipe, errors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _watched(child: int, pipe: Any, errors: Path) -> Iterator[Outcome]:
    """What a child says of its inputs, and what becomes of the one at which it ends."""
    number, began, base, rest = -1, _work_seconds(child), _memory(child), b""
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.1)
        seconds = _work_seconds(child) - began
        if number >= 0 and seconds > MAX_SECONDS:
            os.kill(child, signal.SIGABRT)  # it says where it was
            _, status = os.waitpid(child, 0)
            yield Outcome(number, "hang", _crash(errors.read_bytes(), status)[1], seconds)
            return
        if number >= 0 and (growth := _memory(child) - base) > MAX_GROWTH_BYTES:
            yield Outcome(number, "memory", f"{growth / 2**20:.0f} MiB", seconds)
            return
        if not ready:
            continue
        part = os.read(pipe.fileno(), 1 << 16)
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "begins" in message:
                number, began, base = message["begins"], _work_seconds(child), _memory(child)
            else:
                number = -1
                yield Outcome(**message)
        if not part:
            _, status = os.waitpid(child, 0)
            if number >= 0:
                yield Outcome(number, *_crash(errors.read_bytes(), status), seconds)
            return


def _crash(said: bytes, status: int) -> tuple[str, str]:
    """Whether the program can name the file that crashed it, and where it was."""
    signal_text = f"exit code {os.waitstatus_to_exitcode(status)}"
    where = [line.strip() for line in said.decode(errors="replace").splitlines()]
    frames = [line for line in where if line.startswith("File ") and "/tests/" not in line]
    is_named = said.count(OPENS) > said.count(IS_OPEN)
    return FINE[2] if is_named else "crash", "\n".join([signal_text, *frames[:4]])


def _work_seconds(process: int) -> float:
    """How long a process worked, and a tenth of the time that passed.

    A busy machine hangs nobody, and a process that waits for ever does no work.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() / 10
    worked = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return worked + time.monotonic() / 10


def _memory(process: int) -> int:
    try:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return resident * resource.getpagesize()


def _be_child(
    name: str,
    kind: Kind,
    numbers: list[int],
    seed: int,
    seeds: Path,
    inputs: Path,
    errors: Path,
    pipe: int,
) -> None:
    with open(errors, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()  # a crash says where the product was
    product.watcher = 2
    # What a malformed size asks for must fail, not swap.
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit += 4 * MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True
    tempfile.tempdir = str(inputs)
    seen: list[str] = []
    sys.addaudithook(_hook(inputs, seen))

    def send(message: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    for number in numbers:
        folder = inputs / "a" / "b" / str(number)
        folder.mkdir(parents=True)
        given = make_input(name, kind, number, seed=seed, seeds=seeds, folder=folder)
        before = _names(inputs, folder)
        os.chdir(folder)
        send({"begins": number})
        start = time.monotonic()
        seen.clear()
        what, text = _tried(kind, given)
        os.ftruncate(2, 0)
        seconds = round(time.monotonic() - start, 3)
        written = _names(inputs, folder) - before
        if seen or written:
            what, text = "executed", f"{'; '.join(seen[:5])} {sorted(written)} {text}"
        seen.clear()
        os.chdir(inputs)
        shutil.rmtree(folder, ignore_errors=True)
        send({"number": number, "what": what, "text": text[:1500], "seconds": seconds})


def _names(inputs: Path, folder: Path) -> set[str]:
    """Files that no input may make: beside its folder, or named by its hostile words."""
    outside = [path for path in (inputs, folder.parents[1], folder.parent) if path.is_dir()]
    names = {f"{place.name}/{name}" for place in outside for name in os.listdir(place)}
    # A run may be called "$(touch canary)". If the shell executed that, the file is called canary.
    own = {name for name in os.listdir(folder) if name == "canary" or "escaped" in name}
    return {name for name in names if "tmp" not in name} | own


def _tried(kind: Kind, given: Any) -> tuple[str, str]:
    """What the product does with an input."""
    import cli

    try:
        kind.check(given)
    except kind.refusals as error:
        return "refused", str(error)
    except Exception as error:
        text = shortened(cli.explain(error)[0])
        if text.strip() and len(text) <= MAX_MESSAGE and LAST_RESORT not in text:
            return "refused", text
        return "unclear", f"{_where(error)}\n{''.join(traceback.format_exception(error, limit=-6))}"
    return "accepted", ""


def _where(error: Exception) -> str:
    """The last function of the product that an error passed, and the kind of error."""
    frames = list(traceback.extract_tb(error.__traceback__))
    own = [f for f in frames if str(ROOT) in f.filename and "/tests/" not in f.filename]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}, {last.name}: {type(error).__name__}"


def _hook(inputs: Path, seen: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Notes what no input may do: start programs, talk, unpickle, and write elsewhere."""
    inside = str(inputs)

    def is_outside(path: object) -> bool:
        if isinstance(path, int) or path is None:
            return False
        text = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        return not f"{text}/".startswith((f"{inside}/", "/dev/", "/proc/"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS or event in TALKS or event == "pickle.find_class":
            seen.append(f"{event} {arguments[:3]!r:.200}")
        elif event == "marshal.loads":
            if not sys._getframe(1).f_code.co_filename.startswith("<frozen importlib"):
                seen.append(event)
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes or (isinstance(mode, str) and set(mode) & set("wax+"))) and is_outside(path):
                seen.append(f"writes {path!r:.200}")
        elif event in CHANGES and is_outside(arguments[0]):
            seen.append(f"{event} {arguments[:2]!r:.200}")

    return hook
