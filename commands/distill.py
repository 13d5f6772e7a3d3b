"""`distill`: from photos to a trained student, and the whole run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from commands.library_output import end_at_once, end_without_waiting
from commands.option_groups.sharing import ClusterOptions, ShardOptions
from commands.options import (
    Result,
    RunOptions,
    StepOptions,
    Target,
    command,
    new_app,
    open_config,
    open_run,
)
from configs.errors import UserError
from configs.process.backend import use_tensorflow

if TYPE_CHECKING:
    from configs.resume import Facts
    from configs.run_dir import RunDir
    from configs.schema import Experiment

app = new_app("Distil a large image classifier into a small one, and measure what comes out.")


@contextmanager
def _run_to_train(target: str, options: RunOptions) -> "Iterator[tuple[RunDir, Experiment]]":
    """The run of a command that trains. In a process that only helps to train, the command ends."""
    import keras

    from compress.run.together import help_to_train
    from distill.training.distribution.launch import chosen_launch
    from distill.training.distribution.processes import joined

    experiment = open_config(target, options)
    launch = chosen_launch(experiment.distribution, os.environ, keras.backend.backend())
    if launch is None:
        yield open_run(target, options)
        return
    try:
        with joined(launch, end_at_once) as group:
            if group.is_first:
                yield open_run(target, options)
                return
            help_to_train(*open_run(target, options, writes=False), group)
    except BaseException as error:
        end_without_waiting(getattr(error, "exit_code", 1))
        raise
    raise typer.Exit


@command(app)
def run(target: Target, options: StepOptions) -> Result:
    """Do every step from photos to report; skip what is up to date."""
    from commands.reports import finish_report
    from compress.run.whole_run import take_all

    with _run_to_train(target, options) as (directory, experiment):
        done = take_all(directory, experiment, target=target, force=options.force or [])
    return finish_report(directory, experiment, done.failures)


@command(app)
def data(target: Target, options: StepOptions) -> Result:
    """Scan and split the photos; say what was skipped and why."""
    from compress.run.execution import take
    from distill.data.manifest import describe_empty, describe_endings

    directory, experiment = open_run(target, options)
    facts = take(directory, experiment, ["data"], target=target, force=options.force).last
    counts = " · ".join(f"{s} {facts[f'num_{s}']}" for s in ("train", "validation", "test"))
    if facts["num_unlabelled"]:
        counts += f" · unlabelled {facts['num_unlabelled']}"
    if num_groups := facts.get("num_groups"):
        counts += f" · {num_groups} groups, each on one side"
    if num_near := facts.get("num_near_duplicates"):
        near = directory.photos_manifest.with_name("near_duplicates.csv")
        counts += f"\n{num_near} photos are nearly the same as another one, listed in {near}"
    skipped = directory.photos_manifest.with_name("skipped.csv")
    # Manifests of older versions have neither endings nor empty classes.
    endings = describe_endings(facts.get("skipped_endings", {}))
    text = (
        f"{len(facts['classes'])} classes: {', '.join(facts['classes'][:20])}\n{counts}\n"
        f"skipped {facts['num_skipped']} files{f' ({endings})' if endings else ''}, "
        f"listed in {skipped}\n{describe_empty(facts.get('empty_classes', []))}"
    ).rstrip()
    names = ("source", "root", "classes", "empty_classes", "skipped_endings")
    value = {k: v for k, v in facts.items() if k in names or "num_" in k}
    value["root"] = str(directory.photos_manifest.parent.resolve() / facts["root"])
    return Result(value, text)


@command(app)
def teacher(target: Target, options: StepOptions) -> Result:
    """Fine-tune the teacher, or check the files that are given as one."""
    from compress.run.execution import take

    with _run_to_train(target, options) as (directory, experiment):
        facts = take(directory, experiment, ["teacher"], target=target, force=options.force).last
    (name,) = [n for n in facts["outputs"] if n == "model.keras"] or ["manifest.json"]
    path = directory.model_dir("teacher") / name
    top1 = facts["val_top1"]
    return Result(
        {"val_top1": top1, "path": str(path)}, f"teacher validation top-1 {top1:.1%}  {path}"
    )


@command(app)
def label(
    target: Target,
    options: StepOptions,
    where: ShardOptions,
    merge: Annotated[bool, typer.Option("--merge", help="Join the files of all shards.")] = False,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Folder or URL of shards: --shard copies its files there, --merge takes them.",
        ),
    ] = None,
    verify: Annotated[
        int | None, typer.Option(min=1, help="Compute this many labels again and compare them.")
    ] = None,
) -> Result:
    """Store the teacher's logits for every view."""
    from compress.run.execution import take
    from configs.records import to_json
    from distill.labels.shards import copy_shard
    from distill.labels.soft_labels import soft_labels_path
    from distill.labels.verification import verify_soft_labels

    part = where.part()
    _check_label_options(part, where, merge=merge, parts=parts, verify=verify)
    directory, experiment = open_run(target, options)
    if part is None and not merge:
        with where.cluster() as cluster:
            facts = take(
                directory,
                experiment,
                ["label"],
                target=target,
                force=options.force,
                cluster=cluster,
            ).last
    else:
        facts = _label_part(directory, experiment, part, parts, target, options.force)
    path = soft_labels_path(directory, experiment).with_name(*facts["outputs"])
    value = {"examples": facts["num_examples"], "views": facts["num_views"], "path": str(path)}
    text = f"soft labels of {value['examples']} photos x {value['views']} views  {path}"
    if parts and part:
        copy_shard(path, parts)
        text += f"\ncopied to {parts}"
    if verify:
        verified = verify_soft_labels(directory, experiment, verify)
        value |= to_json(verified)
        text += f"\n{verify} labels computed again: the largest difference is "
        text += f"{verified.max_abs_diff:.2g}"
    return Result(value, text)


def _label_part(
    run: "RunDir",
    experiment: "Experiment",
    part: tuple[int, int] | None,
    parts: str | None,
    target: str,
    force: list[str] | None,
) -> "Facts":
    """Make one shard of the labels, or join all of them; returns its manifest.

    Args:
        part: (number, how many); None: join.
        parts: where the shards come from; None: they are here.
    """
    from compress.run.execution import ensure, take_one
    from distill.data.pipelines import open_photo_store
    from distill.labels.shards import fetch_shards, merge_step, shard_step

    num_shards = 1 if part is None else part[1]  # perhaps all of them at once, on one disk
    with open_photo_store(run, experiment, num_stores=num_shards) as photos:
        if part is None:
            step = partial(merge_step, photos=photos)
            if parts:
                ensure(run, experiment, ["data", "teacher"], target)
                fetch_shards(run, experiment, parts)
        else:
            step = partial(shard_step, photos=photos, shard=part[0], num_shards=part[1])
        return take_one(run, experiment, step, "label", target=target, force=force)


def _check_label_options(
    part: tuple[int, int] | None,
    where: ShardOptions,
    *,
    merge: bool,
    parts: str | None,
    verify: int | None,
) -> None:
    if part and (merge or verify):
        raise UserError("--shard labels one part; --merge and --verify need all. Give one of them.")
    if where.on and merge:
        raise UserError("--on needs no --merge: it makes one file. Leave one of them out.")
    if parts and not (part or merge):
        raise UserError("--parts is for --shard and --merge. Give one of them, or leave it out.")


@command(app)
def student(target: Target, options: StepOptions) -> Result:
    """Train the student and its control, which learns from the labels alone."""
    from compress.run.execution import take
    from compress.run.pipeline import curve_names, further_seeds, trained_names

    with _run_to_train(target, options) as (directory, experiment):
        done = take(directory, experiment, ["student"], target=target, force=options.force)
    names = [*trained_names(experiment), *further_seeds(experiment), *curve_names(experiment)]
    # Behind the trainings come the temperatures and the choice of the model that is shipped.
    value = {
        name: {"val_top1": facts["val_top1"]}
        for name, facts in zip(names, done.manifests, strict=False)
    }
    lines = [f"{name} validation top-1 {facts['val_top1']:.1%}" for name, facts in value.items()]
    return Result(value, f"{'  '.join(lines)}  {directory.model('student')}")


@command(app)
def advise(
    target: Target,
    options: RunOptions,
    backbone: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare this one; repeatable. Default: those here."),
    ] = None,
) -> Result:
    """Before training: which teacher and student fit these photos, and how long it will take."""
    use_tensorflow()
    from commands.tables.training import candidates_table, durations_table
    from compress.config_choices import REGISTRIES
    from compress.run.advise import advise as ask
    from compress.run.execution import take
    from configs.records import to_json

    directory, experiment = open_run(target, options)
    take(directory, experiment, ["data"], target=target)
    advice = ask(directory, experiment, REGISTRIES, backbone or [])
    reasons = "\n".join(f"- {reason}" for reason in advice.proposal.reasons)
    text = (
        f"{candidates_table(advice.candidates, advice.files)}\n\n{reasons}\n\n"
        f"{durations_table(advice.steps)}\n\nNext: distill run {advice.config}"
    )
    return Result({**to_json(advice), "config": str(advice.config)}, text)


@command(app)
def tune(target: Target, options: RunOptions, where: ClusterOptions) -> Result:
    """Search the settings of the student, within the limits of compress.budget."""
    use_tensorflow()
    from commands.tables.training import trials_table
    from compress.config_choices import REGISTRIES
    from compress.tuning.outcome import write_outcome
    from compress.tuning.study import run_study
    from configs.records import to_json

    directory, experiment = open_run(target, options)
    with where.cluster() as cluster:
        study = run_study(directory, experiment, REGISTRIES, cluster)
    outcome = write_outcome(directory, experiment, REGISTRIES, study)
    text = (
        f"{trials_table(outcome.rows)}\n\n* {outcome.sentence}\nplot: {outcome.page}\n"
        f"Next: distill run {outcome.config} --run {directory.path}-best"
    )
    value = {"trials": to_json(outcome.rows), "config": str(outcome.config)}
    return Result(value, text)


@command(app)
def backbones() -> Result:
    """List every backbone: parameters, MACs, input size, and whether its weights are here."""
    from commands.tables.training import backbones_table
    from configs.records import to_json
    from distill.backbones.catalogue import backbone_rows

    rows = backbone_rows()
    return Result({"backbones": [to_json(row) for row in rows]}, backbones_table(rows))


@app.command()
def schema() -> None:
    """Print the JSON schema of a config, for editors that complete and check YAML."""
    from configs.loading.targets import CONFIGS

    typer.echo((CONFIGS / "experiment.schema.json").read_text(), nl=False)
