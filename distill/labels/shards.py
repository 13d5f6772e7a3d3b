"""Soft labels made in parts, on several machines: `distill label --shard I/N`, then `--merge`."""

import json
import re
from pathlib import Path

import numpy as np

from configs.artifacts import digest, file_sha256, whole_file
from configs.errors import StepFailed, UserError
from configs.remote.storage import fetch, is_url, joined, put, read_stored, stored_files
from configs.resume import Built, Step, Workspace, is_current
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import student_examples
from distill.data.photo_store import PhotoStore
from distill.labels.label_file import (
    ROWS_PER_CHUNK,
    label_header,
    num_stored_features,
    shard_rows,
)
from distill.labels.soft_labels import (
    soft_label_format,
    soft_label_inputs,
    soft_labels_step,
    write_labels,
)


def shard_step(
    run: RunDir, experiment: Experiment, photos: PhotoStore, *, shard: int, num_shards: int
) -> Step:
    """Label one of `num_shards` parts of the training photos; the first is 1.

    The build raises UserError if there are too few photos for this number of parts.
    """
    inputs = soft_label_inputs(run, experiment)
    path = run.soft_labels(f"{digest(inputs)}.{shard}-of-{num_shards}")

    def build(workspace: Workspace) -> Built:
        num_examples = len(student_examples(run))
        most = -(-num_examples // ROWS_PER_CHUNK)
        if num_shards > most:
            raise UserError(
                f"{num_shards} shards are too many for {num_examples} photos: a shard has at least "
                f"{ROWS_PER_CHUNK}. Expected {most} or fewer."
            )
        rows = shard_rows(num_examples, shard, num_shards)
        return write_labels(run, experiment, photos, path, rows, workspace)

    return Step(
        name=f"soft labels {shard} of {num_shards}",
        manifest=path.with_suffix(".json"),
        inputs={**inputs, "shard": shard, "num_shards": num_shards},
        build=build,
    )


def merge_step(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Step:
    """Make one file of all shards, equal to that of `soft_labels_step` bit for bit.

    The build raises UserError if a shard is missing, damaged, or of another number of parts.
    """
    whole = soft_labels_step(run, experiment, photos)

    def build(workspace: Workspace) -> Built:
        examples = student_examples(run)
        path = whole.manifest.with_suffix(".npy")
        shards = _complete_shards(run, experiment, photos, path.stem)
        label_format = soft_label_format(
            experiment, examples, num_features=num_stored_features(shards[0])
        )
        num_views = experiment.soft_labels.num_views
        # Nothing is written through a map: on a full disk that kills the process (SIGBUS).
        with whole_file(path) as unfinished, open(unfinished, "wb") as file:
            file.write(label_header(label_format, len(examples), num_views))
            for shard in shards:
                labels = np.load(shard, mmap_mode="r")
                for first in range(0, len(labels), ROWS_PER_CHUNK):
                    file.write(labels[first : first + ROWS_PER_CHUNK].tobytes())
        return [path], {"num_examples": len(examples), "num_views": num_views}

    return Step(whole.name, whole.manifest, whole.inputs, build)


def copy_shard(shard: Path, place: str) -> None:
    """Copy the file of a shard, and then its manifest, to a folder or URL."""
    for path in (shard, shard.with_suffix(".json")):
        put(path, joined(_url(place), path.name))


def fetch_shards(run: RunDir, experiment: Experiment, place: str) -> None:
    """Copy the shards of these soft labels from a folder or URL, as far as they are not here.

    Raises:
        UserError: there are none, or a manifest is damaged.
        StepFailed: a shard changed while it was copied.
    """
    name = digest(soft_label_inputs(run, experiment))
    files = [file.name for file in stored_files(_url(place), below=False)]
    manifests = [file for file in files if file.startswith(name) and file.endswith(".json")]
    if not manifests:
        raise UserError(
            f"{place} holds no shards of these soft labels ({name}). Make them with the same "
            f"config: distill label TARGET --shard 1/2 --parts {place}, and --shard 2/2."
        )
    for manifest in manifests:
        content = read_stored(joined(_url(place), manifest))
        target = run.soft_labels(name).with_name(manifest)
        labels = target.with_suffix(".npy")
        try:
            sha256 = json.loads(content)["outputs"][labels.name]["sha256"]
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{manifest} in {place} is damaged. Make this shard again, or delete the file."
            ) from None
        # All versions of a shard have one size, so only the digest tells them apart.
        if not labels.exists() or file_sha256(labels) != sha256:
            fetch(joined(_url(place), labels.name), labels)
            if file_sha256(labels) != sha256:
                raise StepFailed(
                    f"{labels.name} in {place} is not the file that its manifest describes. "
                    "Perhaps it was being copied there: give the same command again. Or make this "
                    "shard again."
                )
        # It comes last, so that it is never there without its labels.
        with whole_file(target) as unfinished:
            unfinished.write_bytes(content)


def _url(place: str) -> str:
    return place if is_url(place) else f"file://{Path(place).resolve()}"


def _complete_shards(
    run: RunDir, experiment: Experiment, photos: PhotoStore, name: str
) -> list[Path]:
    """The files of all shards in order."""
    folder = run.soft_labels(name).parent
    num_shards = _num_shards(folder, name)
    for number in range(1, num_shards + 1):
        step = shard_step(run, experiment, photos, shard=number, num_shards=num_shards)
        if not is_current(step.manifest, step.inputs):
            raise UserError(
                f"shard {number} of {num_shards} in {folder} is damaged, or its "
                f"{step.manifest.name} is missing. Copy both files again, or make the shard again."
            )
    return [folder / f"{name}.{number}-of-{num_shards}.npy" for number in range(1, num_shards + 1)]


def _num_shards(folder: Path, name: str) -> int:
    """The number of shards in a folder.

    Raises:
        UserError: there are none, one is missing, or they are of several numbers of shards.
    """
    pattern = re.compile(re.escape(name) + r"\.(\d+)-of-(\d+)\.npy")
    matches = [pattern.fullmatch(path.name) for path in folder.glob(f"{name}.*.npy")]
    shards = [(int(match[1]), int(match[2])) for match in matches if match]
    if not shards:
        raise UserError(
            f"{folder} holds no shards of these soft labels. Make them, on as many machines as "
            "you like, with distill label TARGET --shard 1/2, --shard 2/2, and copy them there."
        )
    totals = sorted({total for _, total in shards})
    if len(totals) > 1:
        raise UserError(
            f"{folder} holds shards of {' and of '.join(map(str, totals))}, so some photos are "
            "there twice. Delete the shards that you do not want to merge."
        )
    missing = sorted(set(range(1, totals[0] + 1)) - {number for number, _ in shards})
    if missing:
        raise UserError(
            f"{folder} lacks shard {', '.join(map(str, missing))} of {totals[0]}. Make it with "
            f"distill label TARGET --shard {missing[0]}/{totals[0]}."
        )
    return totals[0]
