"""The temperature of a trained model: fitted on the validation photos, folded into its last layer.

Training does not make scores that mean something: a student under a warm teacher says too little,
a network that has learned its photos by heart says too much. One number mends most of it (Guo et
al. 2017, section 4.2, arXiv:1706.04599).
"""

from pathlib import Path

import keras
import numpy as np

from configs.artifacts import file_sha256, read_json, whole_file
from configs.errors import StepFailed
from configs.resume import Built, Facts, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.backbones import HEAD
from distill.data.manifest import load_examples
from distill.model_file import load_model
from distill.trained.answers import model_outputs
from eval.scoring.calibration import fitted_temperature
from eval.scoring.probabilities import as_probabilities


def temperature_step(run: RunDir, name: str) -> Step:
    """Fit the temperature of the model `name` and keep its logits of the validation photos."""
    inputs = {
        "photos": file_sha256(run.photos_manifest),
        "model": output_sha256(run.model_dir(name) / "manifest.json", "model.keras"),
    }
    path = _validation_logits(run, name)

    def build(workspace: Workspace) -> Built:
        validation = load_examples(run, "validation")
        splits = {"validation": validation}
        logits = model_outputs(load_model(run.model(name)), splits, name=name)["validation"]
        with whole_file(path) as unfinished, open(unfinished, "wb") as file:
            np.save(file, logits)
        # As if the next photo were wrong half of the time (Platt 1999, Probabilistic Outputs for
        # Support Vector Machines, section 2.2): a few photos, all right, make no model certain.
        doubt = 1 / (len(validation) + 2)
        probs = as_probabilities(logits, "logits")
        return [path], {"temperature": fitted_temperature(probs, validation.labels, doubt=doubt)}

    return Step(f"temperature of {name}", _manifest(run, name), inputs, build)


def temperature_of(run: RunDir, experiment: Experiment, name: str) -> float:
    """What the logits of a model of the run are divided by in its files; 1 changes nothing."""
    manifest = _manifest(run, name)
    # A teacher becomes no file, and runs of older versions have no temperatures.
    if not experiment.compress.calibrate or not manifest.exists():
        return 1.0
    return float(read_json(manifest)["temperature"])


def temperature_input(run: RunDir, experiment: Experiment, name: str) -> Facts:
    """The temperature of a model as an input of the steps that use it, if there is one."""
    temperature = temperature_of(run, experiment, name)
    return {} if temperature == 1.0 else {"temperature": temperature}


def validation_logits(run: RunDir, name: str) -> np.ndarray:
    """The logits that `temperature_step` kept, float32 (examples, classes)."""
    return np.asarray(np.load(_validation_logits(run, name)))


def fold_temperature(model: keras.Model, temperature: float) -> None:
    """Divide the logits of `model` by a temperature, in place: kernel and bias of its last layer.

    Raises:
        StepFailed: the model does not end in the classifier of our backbones.
    """
    if temperature == 1.0:
        return
    head = model.layers[-1]
    if head.name != HEAD or head.activation is not keras.activations.linear:
        raise StepFailed(
            f"the model ends in the layer {head.name}, which cannot take a temperature. Expected "
            f"{HEAD}, a Dense layer without an activation. Go on without: "
            "--set compress.calibrate=false"
        )
    head.set_weights([weights / temperature for weights in head.get_weights()])


def _manifest(run: RunDir, name: str) -> Path:
    return run.model_dir(name) / "temperature.json"


def _validation_logits(run: RunDir, name: str) -> Path:
    return run.model_dir(name) / "validation_logits.npy"
