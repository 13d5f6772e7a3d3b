"""Do steps of a run: check what they need, take them in order, and go on after a failed file."""

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from compress.prune import check_order
from compress.run.pipeline import COMMANDS, NEEDS, STEPS, Context
from configs.artifacts import digest, read_json, write_text
from configs.errors import (
    OutOfMemory,
    StepFailed,
    UserError,
    failure_of,
    ran_out_of_memory,
    ran_out_of_space,
)
from configs.loading.experiment import to_yaml
from configs.registry import nearest
from configs.remote.cluster import Cluster
from configs.resume import Facts, Step, is_current, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.checks import (
    check_devices,
    check_image_sizes,
    check_loss,
    check_strategies,
    check_unlabelled,
)
from distill.data.pipelines import open_photo_store
from distill.trackers.of_run import check_trackers
from distill.training.distribution.processes import num_processes_here

log = logging.getLogger("potstill")

WRITE_FILES = ("export", "quantize")
"""Steps that write independent files: if one file fails, the others are written all the same."""

LESS_MEMORY = {
    "teacher": "Train in smaller batches: --set teacher.batch_size=8",
    "student": "Train in smaller batches: --set student.batch_size=8",
    "prune": "Fine-tune in smaller batches: --set student.batch_size=8",
    "quantize": "Calibrate on fewer photos: "
    "--set 'compress.recipes=[{name: tflite.int8, num_images: 32}]'",
}
"""How a step needs less memory. CLOSE_OTHERS stands for the other steps."""
CLOSE_OTHERS = "Close other programs and give the same command again."


@dataclass(frozen=True)
class Taken:
    """What a command did.

    Attributes:
        manifests: of what the last of its steps made.
        failures: files that could not be written, and why.
    """

    manifests: list[Facts]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def last(self) -> Facts:
        """The last manifest."""
        return self.manifests[-1]


def take(
    run: RunDir,
    experiment: Experiment,
    names: list[str],
    *,
    target: str,
    force: list[str] | None = None,
    cluster: Cluster | None = None,
    shard: tuple[int, int] | None = None,
) -> Taken:
    """Take some steps in their order, after a check that what they need was done.

    Args:
        cluster: does the tasks of large steps; None for this process.
        shard: (I, N) takes the I-th of N steps, and every N-th after it; None takes all.

    Raises:
        UserError: a step that is needed was not done, or was done for another config.
        StepFailed: no file could be written.
    """
    for step in force or []:
        if step not in STEPS:
            raise UserError(f"--force {step}: unknown step.{nearest(step, STEPS)}")
        if step not in names:
            raise UserError(f"--force {step}: this command does {', '.join(names)}.")
    if cluster is not None:
        run = RunDir(run.path.absolute())  # workers start in folders of their own
    _prepare(run, experiment, names, target)
    if "teacher" in names or "student" in names:
        check_devices(experiment)
    manifests: list[Facts] = []
    # All models of this call share one store of decoded photos.
    with open_photo_store(run, experiment, num_stores=num_processes_here()) as photos:
        context = Context(run, experiment, photos, cluster=cluster)
        for name in names:
            again = name in (force or [])
            if name in WRITE_FILES:
                manifests = _write_files(context, name, force=again)
            else:
                first, every = (shard[0] - 1, shard[1]) if shard else (0, 1)
                steps = islice(STEPS[name](context), first, None, every)
                manifests = [_take(step, name, force=again) for step in steps]
    return Taken(manifests, context.failures)


def _write_files(context: Context, name: str, *, force: bool) -> list[Facts]:
    """Take every step of `name`; note the files that fail.

    Raises:
        StepFailed: every file failed.
    """
    manifests = []
    failed: dict[str, str] = {}
    for step in STEPS[name](context):
        try:
            manifests.append(_take(step, name, force=force))
        except (OutOfMemory, OSError):
            raise  # it is not the recipe's fault, and the next file would fail too
        except Exception as error:
            if ran_out_of_space(error):
                raise
            failed[step.name] = failure_of(error)
            log.error("%s failed: %s", step.name, failed[step.name])
            log.debug("where it failed", exc_info=True)
    if failed and not manifests:
        raise StepFailed("\n".join(f"{file} failed: {why}" for file, why in failed.items()))
    context.failures.update(failed)
    return manifests


def take_one(
    run: RunDir,
    experiment: Experiment,
    step: Callable[[RunDir, Experiment], Step],
    name: str,
    *,
    target: str,
    force: list[str] | None = None,
) -> Facts:
    """Take a step that stands in for the step `name`, or is a part of it.

    Returns:
        Its manifest.
    """
    _prepare(run, experiment, [name], target)
    return _take(step(run, experiment), name, force=name in (force or []))


def _take(step: Step, name: str, *, force: bool) -> Facts:
    """Take a step. If the memory is not enough, say which step it was and what needs less.

    Raises:
        OutOfMemory: the memory was not enough.
    """
    try:
        return take_step(step, force=force)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        advice = LESS_MEMORY.get(name, CLOSE_OTHERS)
        raise OutOfMemory(
            f"{step.name} ran out of memory. Finished steps are kept. {advice}"
        ) from error


def _prepare(run: RunDir, experiment: Experiment, names: list[str], target: str) -> None:
    check_image_sizes(experiment)
    check_loss(experiment)
    check_strategies(experiment)
    check_trackers(experiment)
    check_unlabelled(experiment)
    check_order(experiment)
    needed = [name for name in STEPS if any(name in NEEDS[n] for n in names) and name not in names]
    ensure(run, experiment, needed, target)
    write_text(run.experiment, to_yaml(experiment))


def ensure(run: RunDir, experiment: Experiment, names: list[str], target: str) -> None:
    """Raise UserError unless these steps were done for this config.

    The photos are the exception: they are scanned again if need be. That takes seconds, and a run
    may have been copied, or its photos touched. Another machine may see other inodes of the same
    files, so only the data step itself looks at them.
    """
    with open_photo_store(run, experiment) as photos:
        context = Context(run, experiment, photos)
        for name in names:
            if name == "data" and _photos_are_elsewhere(run, experiment):
                continue
            for step in STEPS[name](context):
                if name == "data":
                    # Two shards of the labels may start together, and both check the photos.
                    take_step(_despite_inodes(step), wait=True)
                else:
                    _require(run, step, name, target)


def _despite_inodes(step: Step) -> Step:
    """The data step, with the inputs of its manifest if they differ in the inodes alone."""
    stored = read_json(step.manifest).get("inputs", {}) if step.manifest.exists() else {}
    is_same = "inodes" in stored and digest(stored) == digest(
        {**step.inputs, "inodes": stored["inodes"]}
    )
    return replace(step, inputs=stored) if is_same else step


def _photos_are_elsewhere(run: RunDir, experiment: Experiment) -> bool:
    """Whether the run was copied to a machine without its photos.

    The photos of a data set that a name stands for (tfds:cats_vs_dogs) were unpacked into the run,
    and so were those in a storage. Only the data step looks there again. Photos that stay where
    they are (webdataset:shards/*.tar) are here while the root that the manifest names is.
    """
    manifest, data = run.photos_manifest.with_suffix(".json"), experiment.data
    if not manifest.exists():
        return False
    facts = read_json(manifest)
    if any(isinstance(place, str) for place in (data.path, data.photos, data.unlabelled)):
        is_here = False
    else:
        is_here = ":" not in data.source if data.path is None else Path(data.path).exists()
        is_named_otherwise = data.path is None or data.source == "webdataset"
        is_here |= is_named_otherwise and _is_outside(run, Path(facts["root"]))
    return not is_here and bool(facts["inputs"]["data"] == data.as_input())


def _is_outside(run: RunDir, root: Path) -> bool:
    """Whether a root exists and is no folder of the run, as one of unpacked photos is."""
    inside = run.photos_manifest.parent.resolve()
    return root.is_absolute() and root.exists() and not root.is_relative_to(inside)


def _require(run: RunDir, step: Step, name: str, target: str) -> None:
    if not is_current(step.manifest, step.inputs):
        stale = "was done with other settings, or its files changed since"
        state = stale if step.manifest.exists() else "has not been done"
        raise UserError(
            f"the {name} step of {run} {state} ({step.name}). Do it first, with the "
            "--set of this command if it has any:\n"
            f"  {COMMANDS[name]} {shlex.join([target, '--run', str(run)])}"
        )
