"""`METHODS`: functions that make one Keras model from another. Every file here is imported.

To add a method, write one file here with one function under `@METHODS.add(...)`. Its arguments
with a default are its options in a config. Its facts are the attributes of `Facts`.
"""

import importlib
import pkgutil
from dataclasses import dataclass

from compress.methods.structure import Kind
from configs.registry import Registry

METHODS = Registry("method")
METHODS.retire(
    "equalize",
    "tflite.int8, onnx.int8 and the method qat equalize by themselves now. Remove it from "
    "compress.methods. To write a file without it: {name: tflite.int8, equalize: off}.",
)


@dataclass(frozen=True)
class Facts:
    """What a method declares where it registers.

    Attributes:
        needs: arguments that the run passes to the method, by name:
            `calibration` starts an iterator of calibration images,
            `finetune` trains a Keras 3 model in place: (model, epochs, learning_rate),
            `finetune_data` is the material for a training of the method's own,
            `remember` keeps results that a killed run would not find again, such as times.
        undone_by: methods that destroy what this one achieved, when they come later; "*": all.
        makes: the structure that the inner kernels of the result have, and `finetune` keeps.
    """

    needs: tuple[str, ...] = ()
    undone_by: tuple[str, ...] = ()
    makes: tuple[Kind, ...] = ()


def facts_of(name: str) -> Facts:
    """What the method `name` declared."""
    return Facts(**METHODS.facts(name))


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
