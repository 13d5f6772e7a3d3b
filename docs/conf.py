"""How Sphinx builds the site from these pages. One command, in the root of the project:

    sphinx-build --fail-on-warning --keep-going docs build/docs

The pages are plain Markdown with plain links, so they read the same on a code host. A link to a
page or a heading that does not exist is a warning, and so an error.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from docs import from_code

project = "Potstill"
copyright = "the Potstill authors, Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Potstill"
highlight_language = "text"
html_show_sphinx = False
html_copy_source = False

LINK = re.compile(r"^- \[(.+?)\]\((.+?)\.md\)", re.MULTILINE)
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def add_navigation(start_page: str) -> str:
    """The start page, with its lists of links repeated as the navigation beside every page."""
    _, *parts = SECTION.split(re.sub(r"<!--.*?-->", "", start_page, flags=re.DOTALL))
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        pages = "\n".join(f"{name} <{page}>" for name, page in LINK.findall(text))
        start_page += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"
    return start_page


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to a page what is made at build time."""
    if page == "index":
        source[0] = add_navigation(source[0])
    if page in from_code.PAGES:
        source[0] += "\n" + from_code.PAGES[page]()


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
    # Their text depends on the code, which Sphinx does not watch.
    app.connect("env-get-outdated", lambda *_: list(from_code.PAGES))
