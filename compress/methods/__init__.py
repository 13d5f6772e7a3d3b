"""`METHODS`: Keras model -> Keras model, one file each; every file in this folder is imported."""

import importlib
import pkgutil

from configs.registry import Registry

METHODS = Registry("method")

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
