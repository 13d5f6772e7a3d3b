"""The README and the pages of docs/: their length, their links and their commands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("distill", "compress", "evaluate")
COMMANDS = [
    pytest.param(line.split("#")[0].strip(), id=f"{page.name}: {line.strip()[:60]}")
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    for line in block.splitlines()
    if line.strip().startswith(PROGRAMS)
]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_docs_parses(line: str) -> None:
    from commands import compress, distill, evaluate

    program, *words = shlex.split(line.split(" > ")[0])
    apps = {"distill": distill.app, "compress": compress.app, "evaluate": evaluate.app}
    group = get_command(apps[program])
    name, rest = words[0], words[1:]
    subcommand = group.commands[name]  # type: ignore[attr-defined]
    context = subcommand.make_context(name, list(rest))
    assert set(context.params) >= {"debug"} or name == "schema"
