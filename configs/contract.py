"""The input contract: what a model expects of a photo, and what its answers mean."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from configs.loading.paths import UserPath
from configs.records import Strict

Channels = Literal["rgb", "bgr", "grey"]
Fit = Literal["crop", "stretch", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "area"]
Layout = Literal["nhwc", "nchw"]
Answers = Literal["logits", "probabilities", "score", "scores"]
PixelRange = Literal["0..255", "0..1", "-1..1", "caffe", "torch"]

Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Scale = Annotated[FiniteFloat, Field(gt=0)]
PositiveTriple = tuple[Scale, Scale, Scale]


@dataclass(frozen=True)
class Pixels:
    """The range of pixels that a model expects: (pixel - mean) / std, with pixels in 0..255.

    Attributes:
        mean, std: of red, green and blue, whatever the order of the model's channels.
    """

    mean: Triple
    std: PositiveTriple

    def apply(self, images: np.ndarray) -> np.ndarray:
        """float32 images in this range.

        Args:
            images: uint8 or float, (..., 3), or (..., 1) for grey ones.
        """
        channels = images.shape[-1]
        mean = np.array(self.mean[:channels], "float32")
        return (images.astype("float32") - mean) / np.array(self.std[:channels], "float32")

    @property
    def name(self) -> str:
        """For people: `0..1`, or the mean and the std."""
        named = (name for name, pixels in RANGES.items() if pixels == self)
        mean, std = (",".join(f"{value:g}" for value in v) for v in (self.mean, self.std))
        return next(named, f"mean {mean} std {std}")

    def describe(self) -> dict[str, list[float]]:
        """The JSON value that is written into a file's metadata."""
        return {"range": [0, 255], "mean": list(self.mean), "std": list(self.std)}


OWN_PIXELS = Pixels(mean=(0.0,) * 3, std=(1.0,) * 3)
RANGES: dict[str, Pixels] = {
    "0..255": OWN_PIXELS,
    "0..1": Pixels(mean=(0.0,) * 3, std=(255.0,) * 3),
    "-1..1": Pixels(mean=(127.5,) * 3, std=(127.5,) * 3),
    # What preprocess_input of Keras' VGG and ResNet makes; its channels are blue, green and red.
    "caffe": Pixels(mean=(123.68, 116.779, 103.939), std=(1.0,) * 3),
    # torchvision's means and deviations of 0..1, times 255.
    "torch": Pixels(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
}
"""The named ranges. `caffe` also means that blue comes first."""


@dataclass(frozen=True)
class Statement:
    """What the user, a file or a graph says of a contract; None where it says nothing.

    Attributes:
        pixels: the range of pixels.
        channels: the order of colours; grey for one channel.
        fit: how a photo is fitted to the shape of the input. `crop` cuts out the largest centred
            part, `stretch` changes the ratio of the sides, `pad` adds black borders.
        interpolation: how a photo is resized.
        layout: whether channels come last (nhwc) or first (nchw); None: as the shape says.
        labels: the class names in the order of the answers; None: of the folders.
        output_layer: the name of the layer that answers; None: the last one.
        answers: `score` is the probability of the second of two classes, `scores` are independent
            probabilities; None: as the values of the answers say.
    """

    pixels: Pixels | None = None
    channels: Channels | None = None
    fit: Fit | None = None
    interpolation: Interpolation | None = None
    layout: Layout | None = None
    labels: tuple[str, ...] | None = None
    output_layer: str | None = None
    answers: Answers | None = None


@dataclass(frozen=True)
class InputContract:
    """What a model expects of a photo, and what its answers mean.

    The attributes are those of a `Statement`, completed by defaults.

    Attributes:
        stated_by: who stated a field, by its name: "options", "metadata", "graph", "auto" ...
    """

    pixels: Pixels = OWN_PIXELS
    channels: Channels = "rgb"
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    layout: Layout | None = None
    labels: tuple[str, ...] | None = None
    output_layer: str | None = None
    answers: Answers | None = None
    stated_by: dict[str, str] = field(default_factory=dict, compare=False)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """float32 images as the model takes them, channels last.

        Args:
            images: uint8 or float, 0..255, of the evaluation view: RGB, or one channel of grey.
        """
        scaled = self.pixels.apply(images)
        return np.ascontiguousarray(scaled[..., ::-1]) if self.channels == "bgr" else scaled

    def changed(self, by: str, **values: object) -> "InputContract":
        """The same contract with other values, which `by` states."""
        stated_by = {**self.stated_by, **dict.fromkeys(values, by)}
        return replace(self, **values, stated_by=stated_by)  # type: ignore[arg-type]

    def behind_the_door(self) -> "InputContract":
        """The contract of the model once it is wrapped: raw pixels, and nothing else to convert.

        Fit and interpolation remain, because a model never sees the whole photo.
        """
        return replace(
            self,
            pixels=OWN_PIXELS,
            channels="grey" if self.channels == "grey" else "rgb",
            layout=None,
            output_layer=None,
        )

    def of_written_files(self) -> "InputContract":
        """The contract of files written of this model: they say themselves what they answer."""
        return replace(self.behind_the_door(), answers=None)

    def describe(self) -> dict[str, object]:
        """The JSON value for manifests and metadata: what is no default, and who stated what."""
        changed = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name != "stated_by" and getattr(self, name) != getattr(OWN_CONTRACT, name)
        }
        if "pixels" in changed:
            changed["pixels"] = self.pixels.describe()
        return {**changed, "stated_by": self.stated_by} if self.stated_by else changed

    @property
    def line(self) -> str:
        """One line for people: `0..1, RGB, stretch, labels from metadata`."""

        def marked(name: str, text: str) -> str:
            return f"{text} (auto)" if self.stated_by.get(name) == "auto" else text

        parts = [
            marked("pixels", self.pixels.name),
            marked("channels", self.channels if self.channels == "grey" else self.channels.upper()),
            marked("fit", self.fit),
        ]
        if self.interpolation != "bilinear":
            parts.append(self.interpolation)
        if self.layout:
            parts.append(self.layout.upper())
        parts.append(f"labels from {self.stated_by.get('labels', 'the folders')}")
        if self.output_layer:
            parts.append(f"output layer {self.output_layer}")
        if self.answers:
            parts.append(marked("answers", self.answers))
        return ", ".join(parts)


OWN_CONTRACT = InputContract()
"""What our own models and files expect."""


def settled(*statements: tuple[str, Statement | None]) -> InputContract:
    """The contract from what several parties say. The first that states a field decides it.

    Args:
        statements: the name of a party and what it says, the most trusted party first.
    """
    values: dict[str, object] = {}
    stated_by: dict[str, str] = {}
    for party, statement in statements:
        for name in (item.name for item in fields(Statement)):
            value = getattr(statement, name, None)
            if value is not None and name not in values:
                values[name], stated_by[name] = value, party
    return InputContract(**values, stated_by=stated_by)  # type: ignore[arg-type]


def from_unit_range(pixels: Pixels) -> Pixels | None:
    """The same range for pixels of 0..255, if a mean and std look like those of pixels in 0..1.

    torchvision's are. No photos of 0..255 have a mean between 0 and 1, or deviate by less than 1.
    """
    has_small_mean = 0 < max(pixels.mean) <= 1
    if not has_small_mean and min(pixels.std) >= 1:
        return None
    mean, std = ([round(255 * value, 3) for value in v] for v in (pixels.mean, pixels.std))
    if max(pixels.mean) > 1:  # only the std is wrong
        return Pixels(pixels.mean, (std[0], std[1], std[2]))
    return Pixels((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


class TeacherFile(Strict):
    """A trained model to use as a teacher: .keras, a SavedModel folder, .onnx or .tflite.

    What is not said of its contract comes from the file.
    """

    path: UserPath
    """The file or folder, relative to the folder in which the command runs."""
    image_size: Annotated[int, Field(ge=8, le=2048)]
    """Height and width of the model's input, in pixels."""
    pixels: PixelRange | None = None
    """Range of pixels that the model expects."""
    mean: Triple | None = None
    """The model expects (pixel - mean) / std of red, green and blue in 0..255. Replaces pixels."""
    std: PositiveTriple | None = None
    """See mean."""
    channels: Channels | None = None
    """Order of the colours; grey for a model with one channel."""
    fit: Fit | None = None
    """How whole photos are fitted to the input. Training views are square and need no fitting."""
    interpolation: Interpolation | None = None
    """How whole photos are resized."""
    layout: Layout | None = None
    """Whether channels come last (nhwc) or first (nchw)."""
    labels: list[str] | None = None
    """The class names in the order of the model's answers."""
    output_layer: str | None = None
    """The layer that answers, if it is not the last one."""
    answers: Answers | None = None
    """What the answers are. null: as the model or their values say."""

    @model_validator(mode="after")
    def _pixels_said_once(self) -> "TeacherFile":
        if self.pixels is not None and (self.mean or self.std):
            raise ValueError("pixels and mean/std both set the range of pixels; leave one out")
        if self.pixels == "caffe" and self.channels not in (None, "bgr"):
            raise ValueError("pixels: caffe means that blue comes first; leave channels out")
        right = from_unit_range(self.range_of_pixels) if self.range_of_pixels else None
        if right:
            raise ValueError(
                "mean and std are those of pixels from 0 to 1; Potstill's are for 0 to 255: "
                f"mean: {list(right.mean)}, std: {list(right.std)}"
            )
        return self

    @property
    def range_of_pixels(self) -> Pixels | None:
        """The range that the keys state."""
        if self.pixels is not None:
            return RANGES[self.pixels]
        if self.mean or self.std:
            return Pixels(self.mean or OWN_PIXELS.mean, self.std or OWN_PIXELS.std)
        return None

    @property
    def statement(self) -> Statement:
        """What the keys state."""
        return Statement(
            pixels=self.range_of_pixels,
            channels="bgr" if self.pixels == "caffe" and not self.channels else self.channels,
            fit=self.fit,
            interpolation=self.interpolation,
            layout=self.layout,
            labels=tuple(self.labels) if self.labels else None,
            output_layer=self.output_layer,
            answers=self.answers,
        )

    @classmethod
    def from_contract(cls, path: Path, image_size: int, contract: InputContract) -> "TeacherFile":
        """The file of a model whose contract is known."""
        return cls(
            path=path,
            image_size=image_size,
            mean=contract.pixels.mean,
            std=contract.pixels.std,
            channels=None if contract.channels == "rgb" else contract.channels,
            layout=contract.layout,
            interpolation=contract.interpolation,
            labels=list(contract.labels) if contract.labels else None,
            output_layer=contract.output_layer,
            answers=contract.answers,
        )
