"""`distill`: from photos to a trained student, and the whole run."""

import re
from functools import partial
from typing import Annotated

import typer

from commands.options import (
    Debug,
    Force,
    Json,
    Overrides,
    Quiet,
    Run,
    Target,
    open_run,
    show_result,
    start_logging,
)
from configs.errors import UserError

app = typer.Typer(
    help="Distil a big image classifier into a small one, and measure what comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def run(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Every step from photos to report, skipping what is up to date."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from commands.report import finish_report
    from compress.pipeline import STEPS, take

    take(directory, experiment, list(STEPS), target=target, force=force)
    report, text = finish_report(directory, experiment)
    show_result(report, text, as_json=json)


@app.command()
def data(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Scan and split the photos; say what was skipped and why."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from compress.pipeline import take

    facts = take(directory, experiment, ["data"], target=target, force=force)[-1]
    counts = " · ".join(f"{s} {facts[f'num_{s}']}" for s in ("train", "validation", "test"))
    if facts["num_unlabelled"]:
        counts += f" · unlabelled {facts['num_unlabelled']}"
    skipped = directory.photos_manifest.with_name("skipped.csv")
    text = (
        f"{len(facts['classes'])} classes: {', '.join(facts['classes'][:20])}\n{counts}\n"
        f"skipped {facts['num_skipped']} files, listed in {skipped}"
    )
    result = {k: v for k, v in facts.items() if k in ("source", "root", "classes") or "num_" in k}
    show_result(result, text, as_json=json)


@app.command()
def teacher(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune the teacher, or check the files that are given as one."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from compress.pipeline import take

    facts = take(directory, experiment, ["teacher"], target=target, force=force)[-1]
    (name,) = [n for n in facts["outputs"] if n == "model.keras"] or ["manifest.json"]
    path = directory.model_dir("teacher") / name
    result = {"val_top1": facts["val_top1"], "path": str(path)}
    text = f"teacher validation top-1 {result['val_top1']:.1%}  {result['path']}"
    show_result(result, text, as_json=json)


@app.command()
def label(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Label part I of N only; then --merge.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Make one file of all shards.")] = False,
    verify: Annotated[
        int | None, typer.Option(min=1, help="Compute so many labels again, and compare.")
    ] = None,
) -> None:
    """Write the teacher's logits for every view."""
    start_logging(quiet)
    part = _parse_shard(shard, merge=merge, verify=verify)
    directory, experiment = open_run(target, run, set_)
    from compress.pipeline import take, take_one
    from configs.records import to_json
    from distill.data.pipelines import open_photo_store
    from distill.labels.shards import merge_step, shard_step
    from distill.labels.soft_labels import soft_labels_path
    from distill.labels.verification import verify_soft_labels

    if part is None and not merge:
        facts = take(directory, experiment, ["label"], target=target, force=force)[-1]
    else:
        with open_photo_store(directory, experiment) as photos:
            step = partial(merge_step, photos=photos)
            if part is not None:
                step = partial(shard_step, photos=photos, shard=part[0], num_shards=part[1])
            facts = take_one(directory, experiment, step, "label", target=target, force=force)
    path = soft_labels_path(directory, experiment).with_name(*facts["outputs"])
    result = {"examples": facts["num_examples"], "views": facts["num_views"], "path": str(path)}
    text = f"soft labels of {result['examples']} photos x {result['views']} views  {path}"
    if verify:
        verified = verify_soft_labels(directory, experiment, verify)
        result |= to_json(verified)
        text += f"\n{verify} of them computed again: off by {verified.max_abs_diff:.2g} at most"
    show_result(result, text, as_json=json)


def _parse_shard(shard: str | None, *, merge: bool, verify: int | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    if merge or verify:
        raise UserError("--shard labels one part; --merge and --verify need all. Give one of them.")
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {shard}: expected I/N with 1 <= I <= N, as in --shard 1/4.")
    return int(match[1]), int(match[2])


@app.command()
def student(
    target: Target,
    run: Run = None,
    set_: Overrides = None,
    force: Force = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the student and its labels-only control."""
    start_logging(quiet)
    directory, experiment = open_run(target, run, set_)
    from compress.pipeline import further_seeds, take

    manifests = take(directory, experiment, ["student"], target=target, force=force)
    names = ["student", "control"] if experiment.student.control else ["student"]
    names += further_seeds(experiment)
    result = {n: {"val_top1": m["val_top1"]} for n, m in zip(names, manifests, strict=True)}
    lines = [f"{n} validation top-1 {m['val_top1']:.1%}" for n, m in result.items()]
    show_result(result, f"{'  '.join(lines)}  {directory.model('student')}", as_json=json)


@app.command()
def schema() -> None:
    """Print the JSON schema of a config, for editors that complete and check YAML."""
    from configs.loading.targets import CONFIGS

    typer.echo((CONFIGS / "experiment.schema.json").read_text(), nl=False)
