"""The views that the models of a run share."""

from configs.artifacts import file_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.inputs import ViewSource, view_source
from distill.data.manifest import UNLABELLED, Examples, load_examples


def labelled_views(run: RunDir, experiment: Experiment, num_views: int) -> ViewSource:
    """The views of the training photos: what teacher and control learn from."""
    return _views(run, experiment, load_examples(run, "train"), num_views)


def taught_views(run: RunDir, experiment: Experiment) -> ViewSource:
    """The views that have soft labels: the same ones, and behind them those without labels."""
    return _views(run, experiment, taught_examples(run), experiment.soft_labels.num_views)


def taught_examples(run: RunDir) -> Examples:
    """The training photos, and behind them those without labels."""
    return load_examples(run, "train", UNLABELLED)


def _views(run: RunDir, experiment: Experiment, examples: Examples, num_views: int) -> ViewSource:
    return view_source(
        examples,
        views=experiment.views,
        num_views=num_views,
        seed=experiment.seed,
        largest_image=max(experiment.teacher.image_size, experiment.student.image_size),
        overflow_to=run.path,
    )


def view_inputs(run: RunDir, experiment: Experiment) -> dict[str, object]:
    """What the views depend on."""
    return {
        "manifest": file_sha256(run.photos_manifest),
        "views": experiment.views.model_dump(mode="json"),
        "seed": experiment.seed,
        "largest_image": max(experiment.teacher.image_size, experiment.student.image_size),
    }
