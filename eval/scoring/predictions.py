"""Predictions of a file on the validation and test photos, stored on disk."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from configs.artifacts import file_sha256, whole_file
from configs.contract import OWN_CONTRACT, InputContract
from configs.errors import StepFailed, UserError
from configs.progress import track
from configs.remote.cluster import Cluster
from configs.remote.parts import kept_rows
from configs.resume import Built, Step, Workspace
from configs.run_dir import RunDir
from eval.contract.file_contract import open_under
from eval.devices.probe import Edge, Model, ModelFileError
from eval.footprint import model_sha256
from eval.images import evaluation_batches, evaluation_image
from eval.scoring.probabilities import as_probabilities, output_kind

BATCH_SIZE = 32


@dataclass(frozen=True)
class Photos:
    """The photos of one split: files and class indices, which are -1 for photos without labels."""

    split: str
    paths: Sequence[Path]
    labels: np.ndarray

    @property
    def is_labelled(self) -> bool:
        """Whether the classes of the photos are known."""
        return bool((self.labels >= 0).all())

    @property
    def known_labels(self) -> np.ndarray | None:
        """The class indices; None for photos without labels."""
        return self.labels if self.is_labelled else None


def file_outputs(
    path: Path,
    batches: Iterable[np.ndarray],
    contract: InputContract = OWN_CONTRACT,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, str]:
    """What a model file answers, float32 (examples, classes), and of which kind it is.

    Args:
        batches: uint8 images (batch, height, width, channels) of the evaluation view.
        contract: what the file expects.
        progress: called with the number of images that are done.

    Raises:
        UserError: the file cannot be run, or its input cannot hold these pixels.
        StepFailed: it answers with NaN or infinity.
    """
    try:
        model = open_under(path, contract, num_threads)
    except ModelFileError as error:
        raise UserError(f"{path} is not a model that can be run here: {error}.") from None
    return model_outputs(model, path, batches, contract, progress)


def model_outputs(
    model: Model,
    path: Path,
    batches: Iterable[np.ndarray],
    contract: InputContract,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, str]:
    """`file_outputs` of a file that is open already; one thread at a time may use it."""
    outputs = [np.zeros((0, model.num_classes), "float32")]
    for images in batches:
        inputs = contract.apply(images)
        _check_whole(model.input, inputs, path)
        outputs.append(model.predict(inputs))
        if progress:
            progress(sum(map(len, outputs)))
    answers = np.concatenate(outputs)
    if not np.isfinite(answers).all():
        raise StepFailed(f"{path} answers with NaN or infinity: its arithmetic overflows.")
    return answers, contract.answers or model.answers or output_kind(answers)


def predict_file(
    path: Path,
    batches: Iterable[np.ndarray],
    contract: InputContract = OWN_CONTRACT,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Probabilities of a model file, float32 (examples, classes); see `file_outputs`."""
    return as_probabilities(*file_outputs(path, batches, contract, num_threads, progress))


def _check_whole(edge: Edge, inputs: np.ndarray, path: Path) -> None:
    """Raise UserError if an input of whole numbers cannot hold these pixels."""
    if not edge.is_whole or not inputs.size:
        return
    limits = np.iinfo(edge.dtype)
    if (inputs != np.round(inputs)).any() or inputs.min() < limits.min or inputs.max() > limits.max:
        raise UserError(
            f"{path} takes {edge.dtype} without a scale: whole numbers from {limits.min} to "
            f"{limits.max}. Its pixels would be {inputs.min():g} to {inputs.max():g} here. Check "
            "--pixels, or --mean and --std."
        )


def file_probabilities(
    path: Path,
    photos: Photos,
    *,
    num_threads: int,
    contract: InputContract = OWN_CONTRACT,
    name: str | None = None,
) -> np.ndarray:
    """Probabilities of one file on one split, float32 (examples, classes).

    Args:
        name: for the progress bar, if the file has another name so far.
    """
    size = open_under(path, contract, num_threads).input_shape[:2]
    read = partial(evaluation_image, fitting=contract)
    batches = evaluation_batches(photos.paths, size, BATCH_SIZE, read)
    with track(f"{name or path.name}: {photos.split}", len(photos.paths)) as advance:
        return predict_file(path, batches, contract, num_threads, advance)


@dataclass(frozen=True)
class FileAnswers:
    """The task of a cluster: a file of a run answers about some photos of a split.

    Attributes:
        paths: of the photos, by split.
    """

    path: Path
    paths: dict[str, list[Path]]
    num_threads: int

    def __call__(self, part: tuple[str, range]) -> np.ndarray:
        split, rows = part
        size = open_under(self.path, OWN_CONTRACT, self.num_threads).input_shape[:2]
        read = partial(evaluation_image, fitting=OWN_CONTRACT)
        paths = self.paths[split][rows.start : rows.stop]
        batches = evaluation_batches(paths, size, BATCH_SIZE, read)
        return file_outputs(self.path, batches, num_threads=self.num_threads)[0]


def _probabilities_on(
    cluster: Cluster, workspace: Workspace, path: Path, splits: list[Photos], num_threads: int
) -> dict[str, np.ndarray]:
    """`file_probabilities` of each split, with the photos shared among the workers."""
    paths = {photos.split: [p.absolute() for p in photos.paths] for photos in splits}
    task = FileAnswers(path.absolute(), paths, num_threads)
    # All rows together decide what the answers are, where the file does not say it.
    kind = open_under(path, OWN_CONTRACT, num_threads).answers
    return {
        split: as_probabilities(
            kept_rows(
                cluster, workspace, task, split=split, num_rows=len(of_split), name=path.name
            ),
            kind,
        )
        for split, of_split in paths.items()
    }


def file_predictions_step(
    run: RunDir,
    path: Path,
    splits: list[Photos],
    *,
    num_threads: int,
    cluster: Cluster | None = None,
) -> Step:
    """The step that runs one file of the run on the validation and test photos.

    Args:
        cluster: shares the photos among its workers; None for this process.
    """
    target = run.predictions(path.name)
    inputs = {"photos": file_sha256(run.photos_manifest), "file": model_sha256(path)}

    def build(workspace: Workspace) -> Built:
        if cluster is None:
            probs = {
                photos.split: file_probabilities(path, photos, num_threads=num_threads)
                for photos in splits
            }
        else:
            probs = _probabilities_on(cluster, workspace, path, splits, num_threads)
        with whole_file(target) as unfinished:
            np.savez(unfinished, **probs)  # type: ignore[arg-type]
        return [target], {}

    manifest = target.with_name(target.name.removesuffix(".npz") + ".json")
    return Step(f"predictions of {path.name}", manifest, inputs, build)


def load_predictions(run: RunDir, name: str) -> dict[str, np.ndarray]:
    """Probabilities by split, as a predictions step wrote them."""
    with np.load(run.predictions(name)) as stored:
        return {split: stored[split] for split in stored.files}
