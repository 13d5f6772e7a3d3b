"""A command that is killed at any moment continues, and its result is the undisturbed one."""

import shutil
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
)

NUM_KILLS = 10

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
        killed = run_and_kill(words, cwd=place, first_line=duration.first_line, seconds=seconds)
        assert finished.items() <= finish_times(folder).items(), "a finished artifact was redone"
        num_kills += killed
        if not killed:
            return num_kills
    finished = finish_times(folder)
    run_to_end(words, cwd=place)
    assert finished.items() <= finish_times(folder).items(), "a finished artifact was redone"
    return num_kills


@pytest.mark.parametrize("name", COMMANDS)
def test_ten_kills_change_nothing(name: str, place: Path) -> None:
    command, folder = COMMANDS[name], place / f"killed {name}".replace(" ", "-")

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place / command.finished, folder)
        remove_written(command, folder)

    prepare()
    duration = run_to_end(command.words.format(folder=folder), cwd=place)
    undisturbed = ending(place / command.finished)
    assert ending(folder) == undisturbed, "two undisturbed commands differ"
    num_kills, num_copies = 0, 0
    while num_kills < NUM_KILLS:
        assert num_copies < MAX_COPIES
        prepare()
        moments = kill_moments(duration, NUM_KILLS - num_kills, seed=num_copies)
        num_kills += killed_to_the_end(command, folder, duration, moments=moments, place=place)
        num_copies += 1
        assert ending(folder) == undisturbed
        assert not leftovers(folder)
