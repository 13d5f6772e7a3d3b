"""`BACKBONES`: functions that build a Keras model, from raw pixels to logits.

There is one file for each family of backbones.
"""

import importlib

from configs.registry import Registry

BACKBONES = Registry("backbone")

importlib.import_module(f"{__name__}.efficientnet")
