"""`contract.json` of a bundle: what its file expects of a photo, and what its answers mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from configs.artifacts import ending
from configs.contract import Answers, Channels, Fit, InputContract, Interpolation
from configs.errors import UserError
from eval.contract.file_contract import open_under
from eval.contract.settle import with_answers
from eval.devices.probe import Edge, ModelFileError
from eval.footprint import model_sha256
from eval.metadata import FileMetadata
from eval.scoring.class_counts import number_of_classes
from eval.scoring.threshold import Threshold

NUMBER_TYPES = {".tflite": ("float32", "uint8", "int8"), ".onnx": ("float32",)}
"""The types of numbers that the code of a bundle gives to a file and takes from it."""

NUM_NOISE = 16
"""How many images of noise show what a file answers with, where nothing says it."""


@dataclass(frozen=True)
class Numbers:
    """The numbers that go into the file or come out of it.

    Attributes:
        shape: with the batch, in the order of the file.
        scale: a whole number n stands for (n - zero) * scale. None: it stands for itself.
    """

    shape: list[int]
    dtype: str
    scale: float | None
    zero: int

    @classmethod
    def of(cls, shape: list[int], edge: Edge) -> "Numbers":
        return cls(shape, edge.dtype, edge.scale, edge.zero)


@dataclass(frozen=True)
class BundleContract:
    """What an app has to know of a file. Keys that metadata has, too, mean the same there.

    Attributes:
        file: the name of the model file.
        classes: in the order of the answers.
        has_names: whether `classes` are names; otherwise nobody knew them, and they are numbers.
        image_size: height and width of the input, in pixels.
        pixels: the file expects (pixel - mean) / std of red, green and blue in 0..255.
        layout: whether the channels come last (nhwc) or first (nchw).
        numbers_in, numbers_out: types and shapes of the input and of the answers.
        output: what the answers are. `score` is the probability of the second of two classes.
        threshold: the score below which a photo may show none of the classes.
    """

    file: str
    sha256: str
    classes: list[str]
    has_names: bool
    image_size: list[int]
    channels: Channels
    fit: Fit
    interpolation: Interpolation
    pixels: dict[str, list[float]]
    layout: Literal["nhwc", "nchw"]
    numbers_in: Numbers
    numbers_out: Numbers
    output: Answers
    threshold: Threshold | None


def bundle_contract(
    path: Path, contract: InputContract, metadata: FileMetadata | None
) -> BundleContract:
    """The contract of a file, with all that its metadata or the user left to defaults.

    Raises:
        UserError: the file takes several photos at once, or numbers of another type.
    """
    try:
        model = open_under(path, contract)
    except ModelFileError as error:
        raise UserError(f"{path} is not a model that can be run here: {error}.") from None
    if model.batch != 1:
        raise UserError(
            f"{path} takes {model.batch} photos at once, and the code of a bundle gives it one. "
            "Export the model again with a batch of 1."
        )
    types = NUMBER_TYPES[ending(path)]
    for edge, verb in ((model.input, "takes"), (model.output, "returns")):
        if edge.dtype not in types:
            raise UserError(
                f"{path} {verb} {edge.dtype}, and the code of a bundle knows {', '.join(types)}. "
                "Export the model again with float32."
            )
    height, width, channels = model.input_shape
    num_classes = number_of_classes(model.num_classes)
    in_order = [channels, height, width] if model.channels_first else [height, width, channels]
    return BundleContract(
        file=path.name,
        sha256=model_sha256(path),
        classes=list(contract.labels or map(str, range(num_classes))),
        has_names=contract.labels is not None,
        image_size=[height, width],
        channels=contract.channels,
        fit=contract.fit,
        interpolation=contract.interpolation,
        pixels=contract.pixels.describe(),
        layout="nchw" if model.channels_first else "nhwc",
        numbers_in=Numbers.of([1, *in_order], model.input),
        numbers_out=Numbers.of([1, model.num_classes], model.output),
        output=_answers(model, contract),
        threshold=metadata.threshold if metadata else None,
    )


def _answers(model: Any, contract: InputContract) -> Answers:
    """What the answers are: as the contract or the file says, or as answers about noise show."""
    stated = contract.answers or model.answers
    if stated is None:
        shape = (NUM_NOISE, *model.input_shape)
        noise = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
        stated = with_answers(contract, model.predict(contract.apply(noise))).answers
    assert stated is not None, "with_answers settles it"
    return stated
