"""What a new user meets first: the README's table of commands, and their help."""

import subprocess
import sys

import pytest
from typer.main import get_command

from support import ROOT, command

README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_table() -> None:
    from commands import compress, distill, evaluate

    for program, module in (("distill", distill), ("compress", compress), ("evaluate", evaluate)):
        for name in get_command(module.app).commands:  # type: ignore[attr-defined]
            assert f"| `{program} {name}" in README


@pytest.mark.parametrize("program", ["distill", "compress", "evaluate"])
def test_help_needs_neither_tensorflow_nor_keras(program: str) -> None:
    code = (
        "import sys, cli\n"
        f"sys.argv = ['{program}', '--help']\n"
        f"try: cli.{program}()\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'numpy', 'pydantic'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_schema_is_printed() -> None:
    outcome = command("distill", "schema")
    assert outcome.code == 0
    assert '"properties"' in outcome.out
