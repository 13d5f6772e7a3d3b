"""Quantization-aware training of a model without a run: the model is its own teacher."""

import json
from pathlib import Path
from typing import Any

import keras

from compress.foreign.saved_model.load import OpaqueGraph
from compress.graph.classifier import PASSES_VALUES_ON, image_size_of, last_activation
from compress.graph.inference import weights_sha256
from compress.graph.layer_graph import LayerGraph
from compress.graph.replay import copy_layer, rebuild_model
from compress.methods import METHODS
from compress.prune import method_step
from configs.artifacts import digest, write_text
from configs.contract import InputContract, TeacherFile
from configs.errors import UserError
from configs.loading.experiment import to_yaml
from configs.records import to_json
from configs.resume import Built, Step, Workspace, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from configs.schema.data import DataConfig
from configs.schema.training import GivenTeacherConfig, SoftLabelsConfig, StudentConfig
from distill.data.pipelines import open_photo_store
from distill.data.scan import data_step
from distill.labels.soft_labels import soft_labels_step
from distill.model_file import describe, load_model, save_model
from distill.teacher import teacher_step

SMALLEST_SIDE = 32


def self_taught_qat(
    model: keras.Model,
    *,
    teacher: Path,
    data: Path,
    epochs: int,
    folder: Path,
    contract: InputContract,
) -> keras.Model:
    """Train a model for int8 with the method `qat`, from the labels and from its own answers.

    The training is a run in a directory of its own. If it is killed, it continues there, and
    finished steps are not repeated.

    Args:
        model: the classifier as it was given.
        teacher: the file of the classifier as it was given.
        data: the folder of photos; only its training and validation parts are used.
        folder: the directory of the run.
        contract: of the classifier as it was given.

    Returns:
        A model that answers with logits.

    Raises:
        UserError: the model cannot be trained like this.
    """
    height, width = image_size_of(model)
    if any(isinstance(layer, OpaqueGraph) for layer in model.layers):
        raise UserError(
            f"training needs layers, and {teacher} holds a graph that Potstill runs as one layer. "
            "Leave --qat-epochs out, or give the .keras file of the model."
        )
    if contract.fit != "crop" or contract.channels == "grey":
        raise UserError(
            "training crops photos and sees them in colours, and this model takes "
            f"{contract.line}. Leave --qat-epochs out."
        )
    if height != width or height < SMALLEST_SIDE:
        raise UserError(
            f"training needs square images of at least {SMALLEST_SIDE} pixels; this model takes "
            f"{height} x {width}."
        )
    run, start = RunDir(folder), ending_in_logits(model)
    file = TeacherFile.from_contract(teacher.resolve(), height, contract)
    experiment = _experiment(file, data.resolve(), epochs)
    write_text(run.experiment, to_yaml(experiment))
    qat = Choice(name="qat", options=METHODS.check("qat", {"epochs": epochs}))
    take_step(data_step(run, experiment.data))
    with open_photo_store(run, experiment) as photos:
        take_step(teacher_step(run, experiment, photos))
        take_step(soft_labels_step(run, experiment, photos))
        take_step(_start_step(run, start, height))
        take_step(method_step(run, experiment, photos, parent="student", name="qat", method=qat))
    return load_model(run.model("qat"))


def _experiment(teacher: TeacherFile, data: Path, epochs: int) -> Experiment:
    return Experiment(
        data=DataConfig(path=data),
        teacher=GivenTeacherConfig(files=[teacher]),
        soft_labels=SoftLabelsConfig(num_views=epochs),
        student=StudentConfig(
            backbone=Choice(name=teacher.path.stem),
            image_size=teacher.image_size,
            epochs=epochs,
            control=False,
        ),
    )


def _start_step(run: RunDir, model: keras.Model, image_size: int) -> Step:
    """Put the model in the place of the run's student."""

    def build(workspace: Workspace) -> Built:
        facts = to_json(describe(model, model.name, image_size))
        return save_model(run, "student", model), facts

    manifest = run.model_dir("student") / "manifest.json"
    inputs = {"weights": weights_sha256(model), "layers": digest(json.loads(model.to_json()))}
    return Step("student", manifest, inputs, build)


def ending_in_logits(model: keras.Model) -> keras.Model:
    """The same classifier without a softmax at its end.

    Raises:
        UserError: it ends in another activation, or in a single score.
    """
    activation = last_activation(model)
    if model.outputs[0].shape[-1] == 1 or activation not in ("linear", "softmax"):
        raise UserError(
            "training needs a model that ends in logits or a softmax with one score per class; "
            f"this one ends in {model.outputs[0].shape[-1]} of {activation}."
        )
    if activation == "linear":
        return model
    graph = LayerGraph.of(model)
    graph.check_names("be trained for int8")
    last = graph.writer(graph.output)
    while last and isinstance(last.layer, PASSES_VALUES_ON):
        last = graph.writer(last.inputs[0])
    assert last, "the input is no softmax"

    def stand_in(layer: Any) -> Any:
        if layer is not last.layer:
            return layer
        if getattr(layer, "weights", None):  # an operation of keras.ops has no weights
            return copy_layer(layer, activation="linear")
        return lambda x, *_, **__: x

    return rebuild_model(model, stand_in)
