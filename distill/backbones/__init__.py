"""`BACKBONES`: name -> Keras model from raw pixels to logits, one file for each family."""

import importlib

from configs.registry import Registry

BACKBONES = Registry("backbone")

importlib.import_module(f"{__name__}.efficientnet")
