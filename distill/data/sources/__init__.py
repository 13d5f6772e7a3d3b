"""`SOURCES`: where photos come from. A source lists files. Every file of this room is imported.

To add a source, write one function under `@SOURCES.add` in a file here.
"""

import importlib
import pkgutil

from distill.data.sources.listing import SOURCES

__all__ = ["SOURCES"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
