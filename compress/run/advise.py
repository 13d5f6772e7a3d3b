"""`distill advise`: which backbones fit the photos, what to run, and how long it will take."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.artifacts import write_text
from configs.loading.experiment import to_yaml, with_settings
from configs.registry import Registry
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.advice.duration import StepDuration, durations
from distill.advice.proposal import Proposal, image_sizes, propose
from distill.advice.ranking import Candidate, candidate_names, rank
from distill.backbones import BACKBONES
from distill.data.manifest import load_examples, photo_sides, student_examples
from distill.data.pipelines import open_photo_store
from eval.footprint import file_bytes
from eval.timing.results import time_together

FLOAT = "tflite.float32"
NUM_RUNS = 50


@dataclass(frozen=True)
class CandidateFile:
    """What the float32 TFLite file of a backbone costs on this machine."""

    p50_ms: float
    file_bytes: int


@dataclass(frozen=True)
class Advice:
    """What `distill advise` found.

    Attributes:
        files: by the name of the backbone.
        config: the proposed config.
        steps: how long the trainings of that config will take here.
    """

    candidates: list[Candidate]
    files: dict[str, CandidateFile]
    proposal: Proposal
    config: Path
    steps: list[StepDuration]


def advise(
    run: RunDir,
    experiment: Experiment,
    registries: Mapping[str, Registry],
    names: Sequence[str],
) -> Advice:
    """Rank backbones on the photos of a run, which were scanned, and propose a config.

    Args:
        names: backbones to compare; empty for the small ones whose weights are here.

    Raises:
        UserError: a backbone cannot be ranked.
    """
    train, validation = load_examples(run, "train"), load_examples(run, "validation")
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    photo_side = int(np.median(photo_sides(run)))
    size, _ = image_sizes(photo_side, has_gpu=has_gpu)
    labelled = train.with_labels()
    candidates = rank(candidate_names(names, size), labelled, validation, image_size=size)
    files = _files(candidates)
    proposal = propose(
        candidates,
        {name: file.p50_ms for name, file in files.items()},
        photo_side=photo_side,
        num_labelled=len(labelled),
        num_classes=len(train.classes),
        num_unlabelled=len(student_examples(run)) - len(labelled),
        max_latency_ms=experiment.compress.budget.max_latency_ms,
        has_gpu=has_gpu,
    )
    proposed = with_settings(experiment, registries, proposal.settings)
    path = run.path / "advice.yaml"
    write_text(path, to_yaml(proposed))
    with open_photo_store(run, proposed) as photos:
        steps = durations(run, proposed, photos)
    return Advice(candidates, files, proposal, path, steps)


def _files(candidates: Sequence[Candidate]) -> dict[str, CandidateFile]:
    """Write and time a file of each backbone; its weights do not matter for that."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for candidate in candidates:
            model = BACKBONES[candidate.name](
                image_size=candidate.image_size, num_classes=10, weights=None
            )
            paths[candidate.name] = path = Path(folder, f"{candidate.name}.tflite")
            RECIPES[FLOAT](Conversion(model), path, output="probabilities")
        rows = time_together(
            list(paths.values()), num_threads=1, num_warmup=5, num_runs=NUM_RUNS
        )  # fmt: skip
        return {
            name: CandidateFile(rows[path].p50_ms, file_bytes(path)) for name, path in paths.items()
        }
