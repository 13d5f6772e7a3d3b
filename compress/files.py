"""The files of a run: which there are, and the step that writes each."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from compress.recipes.write import file_name, write_file
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
from distill.data.manifest import load_examples
from distill.training.classifier import load_model


def file_step(run: RunDir, experiment: Experiment, source: str, recipe: Choice) -> Step:
    """Write one file of one model of the run."""
    path = run.file(file_name(source, recipe.name))
    inputs: dict[str, Any] = {
        "model": output_sha256(run.model_dir(source) / "manifest.json", "model.keras"),
        "photos": output_sha256(run.photos_manifest.with_suffix(".json"), "manifest.csv"),
        "recipe": recipe.model_dump(mode="json"),
        "output": experiment.compress.output,
    }

    def build(workspace: Workspace) -> Built:
        facts = write_file(
            _loaded(run.model(source), inputs["model"]),
            path,
            recipe,
            source=source,
            examples=load_examples(run, "train"),
            output=experiment.compress.output,
            split={"validation": experiment.data.validation, "test": experiment.data.test},
        )
        return [path], facts

    return Step(path.name, path.with_name(path.name + ".json"), inputs, build)


@lru_cache(maxsize=1)
def _loaded(path: Path, sha256: str) -> Any:
    """The model of a run, kept for the next of its files; recipes change copies."""
    return load_model(path)


def sources(experiment: Experiment) -> list[str]:
    """The models that become files: the student, and what each method made of it."""
    return ["student", *(name for name, _ in method_chain(experiment))]


def method_chain(experiment: Experiment) -> list[tuple[str, Choice]]:
    """The methods in order, each on the result of the one before: (name of the result, method)."""
    methods = experiment.compress.methods
    return [("-".join(m.name for m in methods[: i + 1]), m) for i, m in enumerate(methods)]
