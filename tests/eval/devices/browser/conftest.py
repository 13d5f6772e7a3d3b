"""Browsers that are measured, and the people who open them."""

import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser_page import Page
from configs import progress
from configs.artifacts import write_json
from eval.serve.runtimes import MANIFEST, runtimes_folder


@pytest.fixture
def runtimes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtimes of browsers count as installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_json(runtimes_folder() / MANIFEST, {})


@pytest.fixture
def visitors(
    runtimes_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[Page]]]:
    """Somebody who opens the address as soon as a command prints it."""
    opened: list[Page] = []

    def will_come(**options: Any) -> list[Page]:
        def read(text: str) -> None:
            url = re.findall(r"http\S+", text)[-1]  # the last is that for this machine
            opened.append(Page(url, folder=tmp_path, **options))

        monkeypatch.setattr(progress, "announce", read)
        return opened

    yield will_come
    for page in opened:
        page.vanish()


@pytest.fixture
def make_page(tmp_path: Path) -> Callable[..., Page]:
    """A page of a server that does nothing by itself."""

    def make(server: Any, context: ssl.SSLContext | None = None) -> Page:
        return Page(server.url, folder=tmp_path, context=context, is_alive=False)

    return make
