"""The README and the pages of docs/: their length, their links, and the site made of them."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from configs.schema import json_schema
from doc_pages import PAGES, anchors, links, name_of
from support import ROOT

DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
"""Pages whose headings exist on the site only. The build checks the links to those."""


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    missing = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_known = target.exists() and (
            not anchor or target.parent == GENERATED or anchor in anchors(target)
        )
        missing += [] if is_known else [link]
    assert not missing


def test_the_start_page_lists_every_page_once() -> None:
    pages = [name_of(page) for page in PAGES if DOCS in page.parents and page.name != "index.md"]
    listed = [name_of((DOCS / link).resolve()) for link in links(DOCS / "index.md")]
    assert sorted(link for link in listed if link.endswith(".md")) == sorted(pages)


def test_the_reference_has_every_command_and_option() -> None:
    from commands import compress, distill, evaluate
    from docs.from_code import PAGES as GENERATED_PAGES

    text = GENERATED_PAGES["reference/commands"]()
    for program, module in (("distill", distill), ("compress", compress), ("evaluate", evaluate)):
        for name, command in get_command(module.app).commands.items():  # type: ignore[attr-defined]
            section = text.partition(f"### {program} {name}\n")[2].partition("\n##")[0]
            options = [word for parameter in command.params for word in parameter.opts]
            shown = [word for word in options if word not in ("--quiet", "--json", "--debug")]
            assert not [w for w in shown if w.startswith("--") and f"`{w}" not in section]


def test_the_reference_has_every_key_of_a_config_and_of_the_report() -> None:
    from docs.from_code import PAGES as GENERATED_PAGES
    from docs.from_code.text import plain
    from eval.report.contents import FileEntry, Report

    text = GENERATED_PAGES["reference/config"]()
    schema = json_schema()
    for section in (schema, *schema["$defs"].values()):
        for key, value in section.get("properties", {}).items():
            assert f"`{key}`" in text or f".{key}`" in text
            assert plain(" ".join(value.get("description", "").split())) in text
    text = GENERATED_PAGES["reference/report"]()
    for record in (Report, FileEntry):
        for field in dataclasses.fields(record):
            assert f"`{field.name}`" in text
    assert "`source`" in text  # the key of a field that is called parent


def build(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as docs/conf.py says."""
    words = ["-m", "sphinx", "--fail-on-warning", "--keep-going", str(folder), str(out)]
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    result = build(DOCS, tmp_path)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "index.html").read_text()
    for word in ('src="http', 'rel="stylesheet" href="http', "@import"):
        assert word not in page
    commands = (tmp_path / "reference" / "commands.html").read_text()
    assert "evaluate gate" in commands
    assert "--min-top1" in commands
    assert "student.soft_weight" in (tmp_path / "reference" / "config.html").read_text()
    assert "chosen_file" in (tmp_path / "reference" / "report.html").read_text()
    assert "arXiv:1503.02531" in (tmp_path / "reference" / "losses.html").read_text()


@pytest.mark.slow
def test_a_dead_link_and_a_dead_anchor_fail_the_build(tmp_path: Path) -> None:
    docs = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    page = docs / "tutorials" / "few-labels.md"
    dead = "[dead](no-such-page.md) [dead](first-run.md#no-such-heading)"
    page.write_text(f"{page.read_text()}\n{dead}\n")
    result = build(docs, tmp_path / "site")
    assert result.returncode != 0
    assert "no-such-page" in result.stderr
    assert "no-such-heading" in result.stderr
