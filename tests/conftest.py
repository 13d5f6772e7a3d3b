"""Tiny photos and runs that tests share."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.process.stopping import SIGNALS, stop_is_requested
from object_storage import new_clients, put_files, s3_endpoint
from support import ROOT, Outcome, command, save_photo

__all__ = ["new_clients", "put_files", "s3_endpoint"]

LONGEST = ("test_smoke.py", "test_bridge.py", "test_student.py")
"""Files of tests that take a minute or more."""


LONGEST_SECONDS = 1200
"""A quick test that takes longer hangs, and fails by its name. After half an hour all stacks are
printed (faulthandler_timeout): a hang in a library hears no signal."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: at the end, no worker waits for another. No quick test hangs."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.get_closest_marker("slow") is None:
            # Not by a thread that ends the worker: xdist would begin the same test again.
            item.add_marker(pytest.mark.timeout(LONGEST_SECONDS, method="signal"))


@pytest.fixture(scope="session")
def flowers() -> Path:
    """The real flower photos, where they lie beside the project."""
    path = ROOT.parent / "shared" / "data" / "flowers"
    if not path.exists():
        pytest.skip("the flower photos are not here")
    return path


@pytest.fixture
def usual_handlers() -> Iterator[None]:
    """Signals do what they do in a new program in a terminal.

    The tests may have been started with nohup or behind &, and libraries leave their own handlers.
    """
    usual = {number: signal.SIG_DFL for number in SIGNALS}
    usual[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        # There is no way back to a handler that a library has set from C.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    assert after == usual
    assert not stop_is_requested()


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Two classes of thirty photos each."""
    root = tmp_path / "photos"
    for label, first in (("cat", 0), ("dog", 1000)):
        for number in range(30):
            save_photo(root / label / f"{number}.png", seed=first + number)
    return root


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of configs/smoke.yaml, from teacher to report."""
    path = tmp_path_factory.mktemp("runs") / "smoke"
    outcome = command("distill", "run", "smoke", "--run", path)
    assert outcome.code == 0, outcome.err
    return path


@pytest.fixture
def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are remembered at once, even if they were written a moment ago."""
    monkeypatch.setattr("distill.data.scanning.known.SETTLED_NS", 0)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged, at level warning or above."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("potstill"), "handlers", [handler])
    return messages


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Outcome]:
    """Run one of the programs in this process, in a new folder or `cwd`: TensorFlow loads once."""

    def run(*words: object, cwd: Path | None = None) -> Outcome:
        import cli

        name, *arguments = map(str, words)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        folder = cwd or tmp_path / "here"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            getattr(cli, name)()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run
