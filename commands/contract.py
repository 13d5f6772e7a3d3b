"""The options of the input contract: what a model that Potstill did not make expects."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from configs.errors import UserError

if TYPE_CHECKING:
    from configs.contract import Pixels, Triple
    from eval.contract.choice import ContractChoice


def _option(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, metavar=metavar, rich_help_panel="Input contract")


@dataclass(frozen=True)
class ContractOptions:
    """What a model that Potstill did not make expects; what is left out comes from the file."""

    pixels: Annotated[
        str | None,
        _option(
            "--pixels",
            "Range of the pixels that the model expects. By default 0..255.",
            "0..255|0..1|-1..1|caffe|torch",
        ),
    ] = None
    mean: Annotated[
        str | None, _option("--mean", "Instead of --pixels: R,G,B to subtract from 0..255.")
    ] = None
    std: Annotated[
        str | None, _option("--std", "Instead of --pixels: R,G,B to divide by, after --mean.")
    ] = None
    channels: Annotated[
        str | None, _option("--channels", "Order of the colours.", "rgb|bgr|grey")
    ] = None
    fit: Annotated[
        str | None,
        _option(
            "--fit", "How a photo is fitted to the input. By default crop.", "crop|stretch|pad"
        ),
    ] = None
    interpolation: Annotated[
        str | None,
        _option(
            "--interpolation",
            "How it is resized. By default bilinear.",
            "nearest|bilinear|bicubic|lanczos|area",
        ),
    ] = None
    layout: Annotated[
        str | None, _option("--layout", "nhwc: channels last. nchw: channels first.", "nhwc|nchw")
    ] = None
    labels: Annotated[
        str | None,
        _option(
            "--labels",
            "The classes in the order of the answers: a file with one on each line, or the "
            "folders in alphabetical order or by their numbers.",
            "FILE|alphabetical|natural",
        ),
    ] = None
    output_layer: Annotated[
        str | None,
        _option("--output-layer", "The layer that answers. Of a file: the output.", "NAME"),
    ] = None
    answers: Annotated[
        str | None,
        _option(
            "--answers",
            "score: of the second of two classes. scores: independent.",
            "logits|probabilities|score|scores",
        ),
    ] = None
    contract: Annotated[
        str | None,
        _option(
            "--contract",
            "auto: try others on your photos, and take what is clearly better.",
            "auto",
        ),
    ] = None

    def choice(self) -> "ContractChoice":
        """What the options say.

        Raises:
            UserError: a value cannot be read, or the same thing is said twice.
        """
        from configs import contract
        from configs.contract import Statement
        from eval.contract.choice import ContractChoice

        kinds = {
            "channels": contract.Channels,
            "fit": contract.Fit,
            "interpolation": contract.Interpolation,
            "layout": contract.Layout,
            "answers": contract.Answers,
        }
        for name, kind in kinds.items():
            _check_word(name, getattr(self, name), get_args(kind))
        _check_word("contract", self.contract, ("auto",))
        if self.pixels == "caffe" and self.channels not in (None, "bgr"):
            raise UserError(
                f"--pixels caffe means that blue comes first, and --channels is {self.channels}. "
                "Leave --channels out, or give the means with --mean."
            )
        words = {name: getattr(self, name) for name in kinds}
        order: Any = self.labels if self.labels in ("alphabetical", "natural") else None
        if self.pixels == "caffe":
            words["channels"] = "bgr"
        statement = Statement(
            pixels=_pixels(self.pixels, self.mean, self.std),
            labels=None if order else _labels(self.labels),
            output_layer=self.output_layer,
            **words,
        )
        return ContractChoice(statement, automatic=self.contract == "auto", order=order)


def _check_word(name: str, value: str | None, words: tuple[str, ...]) -> None:
    if value is not None and value not in words:
        raise UserError(f"--{name} {value}: expected one of {', '.join(words)}.")


def _labels(text: str | None) -> tuple[str, ...] | None:
    from eval.contract.foreign_metadata import labels_of_file

    if text is None:
        return None
    if not Path(text).is_file():
        raise UserError(
            f"--labels {text} is no file. Expected a text file with one label on each line, "
            "or alphabetical, or natural."
        )
    labels = labels_of_file(Path(text))
    if labels is None:
        raise UserError(
            f"--labels {text} holds no labels, or more than 4 MiB. Expected a text file with one "
            "label on each line."
        )
    return labels


def _pixels(name: str | None, mean: str | None, std: str | None) -> "Pixels | None":
    from configs.contract import RANGES, Pixels, from_unit_range

    if name is not None and (mean or std):
        raise UserError("--pixels and --mean/--std say the same thing twice. Give one of them.")
    if name is not None:
        _check_word("pixels", name, tuple(RANGES))
        return RANGES[name]
    if mean is None and std is None:
        return None
    pixels = Pixels(_triple("--mean", mean or "0"), _triple("--std", std or "1", positive=True))
    if right := from_unit_range(pixels):
        raise UserError(
            f"{pixels.name} is for pixels from 0 to 1, as in torchvision. --mean and --std are for "
            f"pixels from 0 to 255. Type\n  --mean {_text(right.mean)} --std {_text(right.std)}\n"
            "For torchvision's own numbers, --pixels torch is the same."
        )
    return pixels


def _text(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _triple(option: str, text: str, *, positive: bool = False) -> "Triple":
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    is_finite = all(abs(value) < float("inf") for value in values)
    if len(values) != 3 or not is_finite or (positive and min(values) <= 0):
        least, example = (" above 0", "58.4,57.1,57.4") if positive else ("", "123.7,116.3,103.5")
        raise UserError(
            f"{option} {text}: expected R,G,B in 0..255, three numbers{least}, as in {example}. "
            "One number stands for all."
        )
    return values[0], values[1], values[2]
