"""The last mile of a foreign ONNX model: an int8 file, measured beside the float one."""

import logging
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import onnx

from compress.foreign.contracts import matched, note_drawn_photos, settle_file
from compress.int8.calibration import Images, calibration_photos
from compress.int8.ranges import Ranges, ranges_of_values
from compress.onnx.raw_pixels import PREFIX, SCALED, with_raw_pixels
from compress.recipes.converters import quiet_converters
from compress.recipes.metadata import write_metadata
from compress.recipes.onnx import TYPES, Cpu, quantize_nodes, tensor_reader
from compress.recipes.runtimes import runtime_of
from configs.artifacts import whole_file
from configs.contract import OWN_PIXELS, InputContract
from configs.errors import StepFailed, UserError
from configs.records import from_json, to_json
from configs.resume import Built, Workspace, take_file_step
from configs.schema.choice import Choice
from distill.data.manifest import Examples
from distill.data.scan import scan_folder
from eval.contract.choice import ContractChoice
from eval.contract.file_contract import describe
from eval.devices.probe import open_model
from eval.footprint import model_sha256, zip_bytes
from eval.metadata import FileMetadata
from eval.needs import Runtime
from eval.scoring.file_rows import References, file_row
from eval.scoring.predictions import Photos, file_probabilities
from eval.scoring.probabilities import as_probabilities, two_classes
from eval.timing.results import time_together

log = logging.getLogger("potstill")

FLOAT_ONLY = ("LayerNormalization", "Gelu", "Erf")
"""Operators that no runtime executes in int8; rounding between them would only cost."""
MAX_PARITY_DIFF = 1e-3
"""Between the float model and the same with its contract inside."""


def quantize_onnx_model(
    path: Path,
    recipe: Choice,
    *,
    data: Path | None,
    out: Path,
    contract: ContractChoice,
    num_warmup: int,
    num_runs: int,
) -> list[dict[str, object]]:
    """Write `NAME-int8.onnx` of a foreign .onnx file; returns the rows of both.

    Args:
        recipe: onnx.int8 with its options.
        data: a folder of class folders.

    Raises:
        UserError: the model or the folder does not fit, or the graph has no int8 counterpart.
        StepFailed: the rewritten model answers differently.
    """
    _refuse_output_layer(path, contract.statement.output_layer)
    metadata = describe(path)
    if data is None:
        raise UserError("--data is missing. Give a folder with one folder of photos per class.")
    splits = scan_folder(data)
    note_drawn_photos(path, data)
    settled = settle_file(path, metadata, contract, splits)
    model = open_model(path, layout=settled.layout)
    parts = {
        split: matched(examples, settled.labels, model.num_classes, path)
        for split, examples in splits.items()
    }
    file = out / f"{path.stem}-int8.onnx"
    facts = _written(path, file, recipe, settled, parts["train"])
    photos = Photos("test", parts["test"].paths, parts["test"].labels)
    own = file_probabilities(path, photos, num_threads=1, contract=settled)
    probs = file_probabilities(file, photos, num_threads=1, contract=settled.of_written_files())
    latency = time_together([path, file], num_threads=1, num_warmup=num_warmup, num_runs=num_runs)
    float_row = file_row(
        path, recipe=None, parent=None, probs=own, photos=photos, references=References(),
        latency=[latency[path]],
    )  # fmt: skip
    row = file_row(
        file,
        recipe=recipe.name,
        parent=path.stem,
        probs=probs,
        photos=photos,
        references=References(parent=own, student=own),
        latency=[latency[file]],
        known_zip_bytes=int(facts["zip_bytes"]),  # type: ignore[call-overload]
        runtime=from_json(Runtime, facts["runtime"]),
    )
    return [to_json(float_row), to_json(row)]


def _refuse_output_layer(path: Path, output: str | None) -> None:
    if output is not None:
        image = onnx.load(path, load_external_data=False).graph.input[0].name
        raise UserError(
            f"--output-layer {output} has no effect on an ONNX model here. Cut the model off there:"
            f'\n  python -c \'import onnx; onnx.utils.extract_model("{path}", "one.onnx", '
            f'["{image}"], ["{output}"])\''
        )


def _written(
    path: Path, file: Path, recipe: Choice, contract: InputContract, train: Examples
) -> dict[str, object]:
    size = open_model(path, layout=contract.layout).input_shape[:2]

    def build(workspace: Workspace) -> Built:
        photos = calibration_photos(train, size, contract)
        with whole_file(file) as unfinished:
            _quantize(path, unfinished, recipe, contract, photos)
            metadata = FileMetadata(
                classes=train.classes,
                output="scores" if contract.answers == "scores" else "probabilities",
                pixels=OWN_PIXELS,
                image_size=list(size),
                parent=path.stem,
                recipe=recipe.name,
                channels="grey" if contract.channels == "grey" else "rgb",
                fit=contract.fit,
                interpolation=contract.interpolation,
                contract=contract.describe() or None,
            )
            write_metadata(unfinished, metadata)
        return [file], {
            "source": path.stem,
            "recipe": recipe.name,
            "format": "onnx",
            "contract": contract.describe(),
            "runtime": to_json(runtime_of(file)),
            "zip_bytes": zip_bytes(file),
        }

    inputs = {
        "model": model_sha256(path),
        "photos": [train.ids, train.labels.tolist(), train.classes],
        "contract": contract.describe(),
        "recipe": recipe.model_dump(mode="json"),
    }
    return take_file_step(file, inputs, build)


def _quantize(
    path: Path, target: Path, recipe: Choice, contract: InputContract, photos: Images
) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options = recipe.options
    cpu: Cpu = options["cpu"]
    ranges: Ranges = "mse" if options["ranges"] == "loss" else options["ranges"]
    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        raw, prepared = Path(folder) / "raw.onnx", Path(folder) / "prepared.onnx"
        onnx.save(with_raw_pixels(onnx.load(path), contract), raw)
        _check_parity(path, raw, contract, photos)
        try:
            quant_pre_process(raw, prepared)
        except Exception as error:  # symbolic shapes end in errors of many kinds
            raise UserError(
                f"{path} has no int8 counterpart: its shapes cannot be inferred "
                f"({str(error).splitlines()[0][:200]}). Export it with a fixed size and a batch of "
                "1."
            ) from None
        read = tensor_reader(prepared)
        images = list(islice(photos(), int(options["num_images"])))
        chosen = ranges_of_values((read(image.astype("float32")) for image in images), ranges)
        if SCALED in chosen:
            chosen[SCALED] = off_the_grid(chosen[SCALED])
        nodes = onnx.load(prepared).graph.node
        in_float = {n.name for n in nodes if n.name.startswith(PREFIX) or n.op_type in FLOAT_ONLY}
        quantize_nodes(
            prepared,
            target,
            types=TYPES[cpu],
            ranges=chosen,
            image=images[0],
            in_float=in_float,
        )


def off_the_grid(limits: tuple[float, float]) -> tuple[float, float]:
    """A range of pixels in whose steps no byte lies half-way between two steps.

    In -1..1 with 255 steps every byte would, so that the last bit of the scaling decides. With a
    range that is half a step wider the bytes lie at all places between two steps.
    """
    low, high = limits
    return low, high + (high - low) / 510


def _check_parity(path: Path, raw: Path, contract: InputContract, photos: Images) -> None:
    images = np.stack(list(islice(photos(), 4)))
    own_outputs = open_model(path, layout=contract.layout).predict(contract.apply(images))
    kind = contract.answers
    own = as_probabilities(two_classes(own_outputs, kind or "logits"), kind)
    probs = as_probabilities(open_model(raw).predict(images), "probabilities")
    difference = float(np.abs(own - probs).max())
    if not difference <= MAX_PARITY_DIFF:
        raise StepFailed(
            f"{path} and the same model with its scaling inside differ by {difference:.2g} in "
            f"their probabilities (at most {MAX_PARITY_DIFF:g} expected). This is a fault of "
            "Potstill. Please report it, with the command and, if you can, the model."
        )


def check_onnx_recipes(names: list[str], path: Path) -> None:
    """Raise UserError if a recipe that needs a Keras model is asked for."""
    others = [name for name in names if name != "onnx.int8"]
    if others:
        raise UserError(
            f"{path} is an ONNX model, and an ONNX model becomes int8 only, not "
            f"{', '.join(others)}. Type --recipe int8, or leave --recipe out."
        )


def onnx_recipe(choices: list[Choice]) -> Choice:
    """The one recipe for an .onnx model.

    Raises:
        UserError: an option needs a Keras model.
    """
    (choice,) = choices
    if choice.options["keep_float"]:
        raise UserError("keep_float needs gradients, and so a Keras model. Leave it out.")
    return choice
