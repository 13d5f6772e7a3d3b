"""A command that is killed at any moment continues, and its result is the undisturbed one."""

import shutil
import signal
from pathlib import Path

import pytest

from faults.harness import (
    COMMANDS,
    MAX_COPIES,
    Command,
    Duration,
    ending,
    finish_times,
    kill_moments,
    leftovers,
    remove_written,
    run_and_kill,
    run_to_end,
    started,
)

NUM_KILLS = 10
SECONDS_TO_END = 10.0
"""How long a command may take to end when it is asked to."""

pytestmark = pytest.mark.slow


def killed_to_the_end(
    command: Command, folder: Path, duration: Duration, *, moments: list[float], place: Path
) -> int:
    """Start the command until it ends, and kill it at the next moment each time.

    Returns:
        How often it was killed. It may end before its moment.
    """
    words, num_kills = command.words.format(folder=folder), 0
    for seconds in moments:
        finished = finish_times(folder)
        killed = (
            run_and_kill(words, cwd=place, first_line=duration.first_line, seconds=seconds)
            is not None
        )
        assert finished.items() <= finish_times(folder).items(), "a finished artifact was redone"
        num_kills += killed
        if not killed:
            return num_kills
    finished = finish_times(folder)
    run_to_end(words, cwd=place)
    assert finished.items() <= finish_times(folder).items(), "a finished artifact was redone"
    return num_kills


def prepared(command: Command, place: Path) -> Path:
    """A copy of a finished folder, in which only this command has work to do."""
    folder = place / "disturbed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / command.finished, folder)
    remove_written(command, folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_ten_kills_change_nothing(name: str, place: Path) -> None:
    command = COMMANDS[name]
    folder = prepared(command, place)
    duration = run_to_end(command.words.format(folder=folder), cwd=place)
    undisturbed = ending(place / command.finished)
    assert ending(folder) == undisturbed, "two undisturbed commands differ"
    num_kills, num_copies = 0, 0
    while num_kills < NUM_KILLS:
        assert num_copies < MAX_COPIES
        prepared(command, place)
        moments = kill_moments(duration, NUM_KILLS - num_kills, seed=num_copies)
        num_kills += killed_to_the_end(command, folder, duration, moments=moments, place=place)
        num_copies += 1
        assert ending(folder) == undisturbed
        assert not leftovers(folder)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_asked_to_end_ends_within_ten_seconds(name: str, place: Path) -> None:
    command = COMMANDS[name]
    folder = prepared(command, place)
    words = command.words.format(folder=folder)
    duration = run_to_end(words, cwd=place)
    prepared(command, place)
    seconds = run_and_kill(
        words,
        cwd=place,
        first_line=duration.first_line,
        seconds=duration.seconds / 2,
        number=signal.SIGTERM,
    )
    assert seconds is None or seconds < SECONDS_TO_END
    run_to_end(words, cwd=place)
    assert ending(folder) == ending(place / command.finished)
    assert not leftovers(folder)


def test_two_runs_on_one_directory_end_with_one_result(place: Path) -> None:
    folder = place / "shared"
    words = f"distill run config.yaml --run {folder}"
    with (
        started(words, cwd=place) as (first, first_errors),
        started(words, cwd=place) as (second, second_errors),
    ):
        codes = (first.wait(), second.wait())
        texts = (first_errors.read_text(), second_errors.read_text())
    assert 0 in codes, texts
    for code, text in zip(codes, texts, strict=True):
        assert code == 0 or "error: another process is working on" in text
        assert "Traceback" not in text
    assert ending(folder) == ending(place / "run")
    assert not leftovers(folder)
