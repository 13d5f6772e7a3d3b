"""A whole run, from photos to files that are measured."""

import json
import os
import subprocess
import sys

import keras

from compress.run.execution import Taken, take
from compress.run.pipeline import STEPS
from configs.errors import StepFailed
from configs.process.backend import with_tensorflow
from configs.process.stopping import SECONDS_TO_STOP
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.advice.duration import announce
from distill.data.pipelines import open_photo_store
from distill.training.distribution.launch import alone
from distill.training.distribution.processes import current

TRAINING = ["data", "teacher", "label", "student"]
"""The steps that need no TensorFlow."""
COMMAND = "from cli import distill; distill()"


def take_all(run: RunDir, experiment: Experiment, *, target: str, force: list[str]) -> Taken:
    """Take every step that is not up to date; first say how long that takes.

    Under another backend than TensorFlow, this process trains and a child process does the rest.

    Args:
        force: steps to redo.

    Raises:
        UserError, StepFailed: as `take`.
    """
    take(run, experiment, ["data"], target=target, force=[s for s in force if s == "data"])
    with open_photo_store(run, experiment) as photos:
        announce(run, experiment, photos)
    again = [step for step in force if step != "data"]
    if keras.backend.backend() == "tensorflow":
        return take(run, experiment, list(STEPS), target=target, force=again)
    unknown_or_early = [step for step in again if step in TRAINING or step not in STEPS]
    take(run, experiment, TRAINING, target=target, force=unknown_or_early)
    return _rest_in_tensorflow(run, [step for step in again if step not in TRAINING])


def _rest_in_tensorflow(run: RunDir, force: list[str]) -> Taken:
    """Let a child process continue the run, whose trainings are up to date.

    Raises:
        StepFailed: the child failed; it has said why.
    """
    words = [word for step in force for word in ("--force", step)]
    if (group := current()) is not None:
        group.leave()
    lines = said_by([sys.executable, "-c", COMMAND, "run", str(run), "--json", *words])
    if not lines:
        raise StepFailed(
            f"the steps after the training of {run} failed, as said above. The trained models are "
            f"kept. Go on with: distill run {run}"
        )
    return Taken([], failures=json.loads(lines[-1]).get("failures", {}))


def said_by(command: list[str]) -> list[str]:
    """The lines that a child process prints. If this process has to end, the child ends first."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=_terminal(),
        text=True,
        env=with_tensorflow(alone(os.environ)),
    )
    try:
        return child.communicate()[0].splitlines()
    except BaseException:
        child.terminate()
        try:
            child.wait(SECONDS_TO_STOP - 1)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise


def _terminal() -> int | None:
    """Where Python's standard error leads; None if it is no file, as in a notebook."""
    # Descriptor 2 may lead elsewhere: commands keep from the terminal what libraries print.
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
