"""The step that chooses the model that becomes files: student or control."""

import logging

import numpy as np

from configs.artifacts import file_sha256, read_json
from configs.records import from_json, to_json
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.student import seed_name
from distill.trained.temperature import validation_logits
from eval.choice.model_to_ship import ShippedModel, choose_model

log = logging.getLogger("potstill")


def ship_step(run: RunDir, experiment: Experiment) -> Step:
    """Choose between student and control, once both are trained and their temperatures fitted."""
    config = experiment.student
    pairs = [
        (seed_name("student", number), seed_name("control", number))
        for number in range(1, config.seeds + 1)
    ]
    names = [name for pair in pairs for name in pair] if config.control else ["student"]
    inputs = {
        "ship": config.ship,
        "photos": file_sha256(run.photos_manifest),
        "models": {
            name: output_sha256(run.model_dir(name) / "manifest.json", "model.keras")
            for name in names
        },
    }

    def build(workspace: Workspace) -> Built:
        if not config.control:
            return [], to_json(ShippedModel("student", "the run has no control"))
        labels = load_examples(run, "validation").labels
        right = {
            name: (validation_logits(run, name).argmax(axis=1) == labels).astype("float64")
            for name in names
        }
        students, controls = (
            np.stack([right[name] for name in of_seeds]) for of_seeds in zip(*pairs, strict=True)
        )
        shipped = choose_model(config.ship, students=students, controls=controls)
        if shipped.model == "control" and config.ship == "auto":
            log.warning("%s.", shipped.reason[0].upper() + shipped.reason[1:])
        return [], to_json(shipped)

    return Step("student or control", run.path / "results" / "shipped.json", inputs, build)


def shipped_of(run: RunDir) -> ShippedModel:
    """What `ship_step` chose; the student in runs of older versions, and before the choice."""
    manifest = run.path / "results" / "shipped.json"
    if not manifest.exists():
        return ShippedModel("student", "student and control were not compared")
    return from_json(ShippedModel, read_json(manifest))
