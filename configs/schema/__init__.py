"""`Experiment`: every setting of a run, with its type, its limits and its default."""

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from configs.records import Strict
from configs.schema.choice import Choice
from configs.schema.data import DataConfig
from configs.schema.distribution import DistributionConfig
from configs.schema.evaluate import EvaluateConfig
from configs.schema.files import CompressConfig
from configs.schema.training import AnyTeacherConfig, SoftLabelsConfig, StudentConfig
from configs.schema.tune import TuneConfig
from configs.schema.views import ViewsConfig


class Experiment(Strict):
    """A complete config."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """The seed of all random numbers of the run."""
    data: DataConfig
    views: ViewsConfig = ViewsConfig()
    teacher: AnyTeacherConfig
    soft_labels: SoftLabelsConfig = SoftLabelsConfig()
    student: StudentConfig
    compress: CompressConfig = CompressConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    distribution: DistributionConfig = DistributionConfig()
    trackers: list[Choice] = []
    """Programs that get curves, config, report and files besides: tensorboard, mlflow, wandb."""


def holds_path(key: str) -> bool:
    """Whether the setting `key` ("data.path") is the path of a file or folder."""

    def is_path(annotation: Any) -> bool:
        return annotation is Path or any(is_path(part) for part in get_args(annotation))

    section, _, name = key.partition(".")
    config = Experiment.model_fields.get(section)
    field = getattr(config.annotation, "model_fields", {}).get(name) if config else None
    return field is not None and is_path(field.annotation)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config, for editors that complete and check YAML."""
    return {"title": "Potstill experiment", **Experiment.model_json_schema(by_alias=True)}
