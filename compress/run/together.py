"""One command in several processes: process 0 does its steps, the others help to train."""

import logging

from compress.run.pipeline import STEPS, Context
from configs import progress
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.pipelines import open_photo_store
from distill.training.distribution.processes import Group

log = logging.getLogger("potstill")


def help_to_train(run: RunDir, experiment: Experiment, group: Group) -> None:
    """Take part in the trainings of process 0, until its command is done."""
    progress.quiet = True  # process 0 shows how far they are
    with open_photo_store(run, experiment, num_stores=group.num_here) as photos:
        context = Context(run, experiment, photos)
        for name in group.calls():
            log.info("process %d takes part: %s", group.index, name)
            step = next(
                step
                for kind in ("teacher", "student")
                for step in STEPS[kind](context)
                if step.name == name
            )
            assert step.join is not None, name
            step.join(step.workspace)
