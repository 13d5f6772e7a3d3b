"""The README and the pages of docs/, as tests read them: links, headings, and the commands in them.

A comment above a block of commands says how it is tested, and one above a YAML file names it:

    <!-- runs -->                          by the slow test, on files of these names
    <!-- runs with tiny networks -->       the same, with settings that make it short
    <!-- runs, and may exit with 1 -->
    <!-- parsed: it needs a board -->      by the parser of the command line alone
    <!-- all commands of this page are parsed: they take hours -->
    <!-- file: my.yaml -->                 the commands of the page may name this file
"""

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from support import ROOT

PROGRAMS = ("distill", "compress", "evaluate")
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "console")
MARK = re.compile(r"<!-- (runs|parsed: )(.*?) -->")
FILE = re.compile(r"<!-- file: (.+?) -->")
PAGE_MARK = re.compile(r"<!-- all commands of this page are parsed: (.+?) -->")
ENDS = ("&&", "||", ";", "|", ">", "2>", ">>")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Command:
    """A command on a page, as words: the program first."""

    page: Path
    words: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{name_of(self.page)}: {' '.join(self.words)[:70]}"


@dataclass(frozen=True)
class Block:
    """A block with commands of ours.

    Attributes:
        mark: "runs", "parsed", or "" where nothing says it.
        is_tiny: whether it runs with tiny networks.
        may_fail: whether it may exit with 1.
    """

    page: Path
    line: int
    commands: list[Command]
    mark: str
    is_tiny: bool
    may_fail: bool


@cache
def tokens_of(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def inline_tokens(page: Path) -> list[Token]:
    """Links, images and inline code of a page."""
    return [child for token in tokens_of(page) for child in token.children or []]


def links(page: Path) -> list[str]:
    """The targets of links and images that lie in the project."""
    tokens = inline_tokens(page)
    targets = [str(token.attrGet("href") or token.attrGet("src") or "") for token in tokens]
    return [target for target in targets if target and "://" not in target]


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as code hosts and MyST make them."""
    tokens = tokens_of(page)
    texts = [
        "".join(child.content for child in following.children or [])
        for token, following in pairwise(tokens)
        if token.type == "heading_open"
    ]
    seen: Counter[str] = Counter()
    names = set()
    for text in texts:
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return names


def commands_in(page: Path, text: str) -> list[Command]:
    """The commands of ours in a text of a shell, and `python FILE`."""
    commands = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            while words and (words[0] in ("nice", "$") or re.match(r"[A-Z_]+=", words[0])):
                del words[0]
            if words and (words[0] in PROGRAMS or words[0] == "python"):
                commands.append(Command(page, tuple(words)))
            words = []
    return commands


def blocks(page: Path) -> list[Block]:
    """The blocks of a page with commands of ours."""
    with_commands = []
    page_mark = "parsed" if PAGE_MARK.search(page.read_text()) else ""
    for comment, token in _blocks_with_comments(page):
        if token.type == "fence" and token.info not in SHELL:
            continue
        commands = [c for c in commands_in(page, token.content) if c.words[0] in PROGRAMS]
        if not commands:
            continue
        match = MARK.search(comment)
        mark, details = (match[1].rstrip(": "), match[2]) if match else (page_mark, "")
        line = (token.map or [0])[0] + 1
        is_tiny, may_fail = "with tiny networks" in details, "may exit with 1" in details
        with_commands.append(Block(page, line, commands, mark, is_tiny, may_fail))
    return with_commands


def files(page: Path) -> dict[str, str]:
    """The files that a page shows, by name."""
    named = [(FILE.search(comment), token) for comment, token in _blocks_with_comments(page)]
    return {match[1]: token.content for match, token in named if match}


def fences(page: Path, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    return [t.content for t in tokens_of(page) if t.type == "fence" and t.info == language]


def _blocks_with_comments(page: Path) -> list[tuple[str, Token]]:
    """The blocks of code of a page, each with the comment above it."""
    tokens = tokens_of(page)
    return [
        (before.content if before and before.type == "html_block" else "", token)
        for before, token in zip([None, *tokens], tokens, strict=False)
        if token.type in ("code_block", "fence")
    ]


def inline_commands(page: Path) -> list[Command]:
    """Commands with arguments in the sentences and tables of a page."""
    return [
        command
        for token in inline_tokens(page)
        if token.type == "code_inline" and token.content.startswith(PROGRAMS)
        for command in commands_in(page, token.content)
        if len(command.words) > 2
    ]
