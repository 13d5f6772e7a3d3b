"""`BACKBONES`: functions that build a Keras model, from raw pixels to logits.

There is one file for each family of backbones.
"""

import importlib

from configs.registry import Registry

BACKBONES = Registry("backbone")
HEAD = "logits"
"""The name of the last layer of every backbone."""

importlib.import_module(f"{__name__}.efficientnet")
