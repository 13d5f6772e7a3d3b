"""The reference pages of the site, made from the code: what they say is what the code does.

`PAGES` has one function for each page of `docs/reference/`. It returns Markdown, which
`docs/conf.py` adds to the page when the site is built.
"""

from collections.abc import Callable

from docs.from_code.commands import commands
from docs.from_code.config import config
from docs.from_code.names import backbones, names
from docs.from_code.report import report

PAGES: dict[str, Callable[[], str]] = {
    "reference/commands": commands,
    "reference/config": config,
    "reference/report": report,
    "reference/losses": names("loss", "feature_loss", titles=True),
    "reference/methods": names("method"),
    "reference/recipes": names("recipe"),
    "reference/backbones": backbones,
    "reference/choices": names(titles=True),
}
"""The text of each generated page, by the name of the page."""
