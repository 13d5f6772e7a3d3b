"""`BACKBONES`: functions that build a Keras model, from raw pixels to logits.

`efficientnet` and `applications` hold the tables of networks, `ported` those of PyTorch.
"""

import importlib

from configs.registry import Registry

BACKBONES = Registry("backbone")
HEAD = "logits"
"""The name of the last layer of every backbone."""

for _module in (
    "efficientnet",
    "applications",
    "ported.resnet",
    "ported.mobilenet_v4",
    "keras_file",
):
    importlib.import_module(f"{__name__}.{_module}")
