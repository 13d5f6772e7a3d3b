"""The three programs as a shell sees them."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import explain
from configs.errors import printable, shortened
from support import ROOT, command

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT
    )


@pytest.mark.parametrize("program", ["distill", "compress", "evaluate"])
def test_a_program_knows_its_version(program: str) -> None:
    outcome = command(program, "--version")
    assert outcome.code == 0
    assert outcome.out.startswith("potstill 0.")


def test_the_shell_completes_commands() -> None:
    code = "from cli import distill; import sys; sys.argv = ['distill']; distill()"
    completing = {
        "_DISTILL_COMPLETE": "complete_bash",
        "COMP_WORDS": "distill st",
        "COMP_CWORD": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**ENVIRONMENT, **completing},
    )
    assert result.stdout.split() == ["student"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "from cli import distill; import sys; sys.argv = ['distill', 'schema']; distill()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert writer.stdout is not None
    writer.stdout.close()  # before anything is written
    _, errors = writer.communicate()
    assert writer.returncode == 1
    assert errors == b""


def test_a_broken_pipe_is_not_explained_by_a_path() -> None:
    assert "path" not in explain(BrokenPipeError(errno.EPIPE, "Broken pipe"))[0]
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b")
    assert "(a/b). Check that the path exists" in explain(missing)[0]


def test_what_libraries_print_is_kept_from_the_terminal() -> None:
    result = python(
        "import os, sys\n"
        "from commands.library_output import kept_from_the_terminal\n"
        "with kept_from_the_terminal():\n"
        "    os.write(2, b'greetings from C++\\n')\n"
        "    print('ours', file=sys.stderr)\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    assert result.stderr == "ours\nafterwards\n"


def test_the_last_words_of_a_library_that_crashes_are_shown() -> None:
    result = python(
        "import os\n"
        "from commands.library_output import kept_from_the_terminal\n"
        "with kept_from_the_terminal():\n"
        "    os.write(2, b'check failed: the tensor is gone\\n')\n"
        "    os.abort()\n"
    )
    assert result.returncode == -signal.SIGABRT
    error, *last_words = result.stderr.splitlines()
    assert error.startswith("error: the process was killed or crashed. Finished steps are kept")
    assert last_words[1] == "check failed: the tensor is gone"


@pytest.mark.parametrize("is_open", [False, True])
def test_a_crash_while_a_file_is_opened_names_the_file(is_open: bool) -> None:
    result = python(
        "import os\n"
        "from pathlib import Path\n"
        "from commands.library_output import kept_from_the_terminal\n"
        "from configs.errors import opening\n"
        "with kept_from_the_terminal():\n"
        "    with opening(Path('model.tflite')):\n"
        "        with opening(Path('inner')): pass\n"
        "        os.write(2, b'many\\n' * 100 + b'the last')\n"
        f"        {is_open} or os.abort()\n"
        "    os.abort()\n"
    )
    assert result.returncode == -signal.SIGABRT
    error, *last_words = result.stderr.splitlines()
    assert ("crashed while it opened model.tflite. Finished steps are kept" in error) != is_open
    assert ("If it ends here again, the file is damaged" in error) != is_open
    assert last_words[-1] == "the last"
    assert not [line for line in last_words if "potstill" in line]


def test_a_killed_process_says_how_to_go_on() -> None:
    result = python(
        "import os, signal\n"
        "from commands.library_output import kept_from_the_terminal\n"
        "with kept_from_the_terminal():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert result.returncode == -signal.SIGKILL
    assert "give the same command again to go on" in result.stderr
    assert "last lines" not in result.stderr


def stopped(code: str) -> tuple[int, list[str]]:
    """The exit code and the errors of a process that gets SIGTERM when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors.splitlines()


def test_sigterm_ends_a_program_with_one_sentence() -> None:
    code, errors = stopped(
        "import cli, time, typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def busy():\n"
        "    print('busy', flush=True)\n"
        "    time.sleep(60)\n"
        "cli._program(app, lambda: None)()\n"
    )
    assert code == 128 + signal.SIGTERM
    (error,) = errors
    assert error.startswith("error: stopped by SIGTERM. Finished steps are kept")


def test_a_program_that_is_stopped_removes_its_folders(tmp_path: Path) -> None:
    code, _ = stopped(
        "import cli, tempfile, time, typer\n"
        "from configs.process.ending import folder_until_the_end\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def busy():\n"
        "    (folder_until_the_end() / 'a.keras').touch()\n"
        "    print('busy', flush=True)\n"
        "    time.sleep(60)\n"
        "cli._program(app, lambda: None)()\n"
    )
    assert code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_waits_for_no_library_removes_its_folders(tmp_path: Path) -> None:
    result = python(
        "import tempfile\n"
        "from commands.library_output import end_without_waiting\n"
        "from configs.process.ending import folder_until_the_end\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "folder = folder_until_the_end()\n"
        "assert folder.is_dir()\n"
        "end_without_waiting(3)\n"
    )
    assert result.returncode == 3, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_a_program_that_is_busy_in_a_library() -> None:
    code, errors = stopped(
        "import commands.library_output as module\n"
        "from collections import deque\n"
        "from functools import partial\n"
        "from itertools import chain, repeat\n"
        "from configs.process.stopping import stops_on_signals\n"
        "module.SECONDS_TO_STOP = 0.2\n"
        "with stops_on_signals(), module.kept_from_the_terminal():\n"
        # It prints a line, and then goes on in C without end.
        "    deque(chain(map(partial(print, flush=True), ['busy']), repeat(0)), maxlen=0)\n"
    )
    (error,) = errors
    assert code == -signal.SIGKILL
    assert error.startswith("error: the process was asked to end, was still busy")


def test_an_error_of_a_library_is_one_sentence(tmp_path: Path) -> None:
    result = python(
        "import cli, commands.distill as module\n"
        "def broken(*words): raise RuntimeError('first line\\nsecond line')\n"
        "import commands.options, sys\n"
        "module.open_run = broken\n"
        "sys.argv = ['distill', 'data', 'smoke']\n"
        "cli.distill()\n"
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: RuntimeError: first line",
        "Finished steps are kept. Run again with --debug to see where this happened.",
    ]


def test_a_message_cannot_steer_the_terminal_and_stays_readable() -> None:
    hostile = "naïve 写真 \x1b[2J\u202egnp.exe\udcff\r\n"
    assert printable(hostile) == "naïve 写真 \\x1b[2J\\u202egnp.exe\\udcff\\r\n"
    long = shortened(f"{'x' * 5000} is no file.\n" + "more\n" * 1000)
    assert long.splitlines()[0].endswith("xxx is no file.")
    assert len(long) < 2000
    assert "... 961 more lines" in long


def test_a_name_on_the_command_line_is_quoted_as_text() -> None:
    outcome = command("distill", "data", "\x1b]0;title\x07")
    assert outcome.code == 2
    assert outcome.err.startswith("error: \\x1b]0;title\\x07 does not exist.")


def test_an_empty_word_is_not_the_present_folder(tmp_path: Path) -> None:
    outcome = command("distill", "run", "", cwd=tmp_path)
    assert outcome.code == 2
    assert "error: the word behind run is empty. Is a variable of your shell" in outcome.err
    assert command("distill", "run", "", "--debug", cwd=tmp_path).code
    assert not list(tmp_path.iterdir())
