"""A whole run, from photos to files that are measured."""

from compress.run.execution import Taken, take
from compress.run.pipeline import STEPS
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.advice.duration import announce
from distill.data.pipelines import open_photo_store


def take_all(run: RunDir, experiment: Experiment, *, target: str, force: list[str]) -> Taken:
    """Take every step that is not up to date; first say how long that takes.

    Args:
        force: steps to redo.

    Raises:
        UserError, StepFailed: as `take`.
    """
    take(run, experiment, ["data"], target=target, force=[s for s in force if s == "data"])
    with open_photo_store(run, experiment) as photos:
        announce(run, experiment, photos)
    again = [step for step in force if step != "data"]
    return take(run, experiment, list(STEPS), target=target, force=again)
