"""`Experiment`: every setting of a run, with its type, its limits and its default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_serializer,
    model_validator,
)

from configs.contract import TeacherFile
from configs.loading.paths import UserPath
from configs.records import Share, Strict
from configs.schema.views import ViewsConfig

Positive = Annotated[float, Field(gt=0)]
OutputKind = Literal["probabilities", "logits"]


class Choice(BaseModel):
    """A registered name and its options. A bare name is a choice without options."""

    model_config = ConfigDict(frozen=True)
    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "options": {}}
        if isinstance(value, Mapping) and "options" not in value:
            return {
                "name": value.get("name"),
                "options": {k: v for k, v in value.items() if k != "name"},
            }
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        options = {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": True,
        }
        return {"anyOf": [{"type": "string"}, options]}

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


class DataConfig(Strict):
    source: str = "folder"
    """Where photos come from. folder: one folder per class, or split folders (train/, test/ and the
    like) that hold one folder per class. digits: the handwritten digits of scikit-learn."""
    path: UserPath | None = None
    """The folder of photos, relative to the folder in which the command runs."""
    unlabelled: UserPath | None = None
    """A folder of more photos, without labels. The teacher labels them for the student."""
    labels_per_class: Annotated[int, Field(gt=0)] | None = None
    """Hide the labels of all training photos but this many of each class, to see what labels are
    worth. The student learns from the others as from photos without labels."""
    validation: Share = 0.1
    """Share of the photos that decide between models."""
    test: Share = 0.2
    """Share of the photos that only the report uses."""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The run stops if a larger share of the photos cannot be used: damaged ones, and kinds that
    are not read, such as RAW."""


class TrainingConfig(Strict):
    backbone: Choice
    """The network, and where its first weights come from."""
    image_size: Annotated[int, Field(ge=32, le=2048)]
    """Height and width of the model's input, in pixels."""
    strategy: Choice = Choice(name="auto")
    """Which layers are trained in which epochs."""
    epochs: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak of the cosine schedule. auto: 1e-3 from scratch, 2e-4 from pretrained weights."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    label_smoothing: Share = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """balanced: all classes have the same total weight, however many photos they have."""
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and save a moving average of the weights instead of the weights. It keeps this share
    of itself at each update (0.99: an average over about 100 updates). null: no average."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many epochs without a better validation loss. null: train all epochs."""


class TeacherConfig(TrainingConfig):
    """A teacher that the run trains on its photos."""

    labels: Literal["shown", "all"] = "shown"
    """all: the teacher also learns from the labels that data.labels_per_class hides."""


class GivenTeacherConfig(Strict):
    """A teacher that exists already. Several files form one teacher: the mean of their
    log-probabilities."""

    files: Annotated[list[TeacherFile], Field(min_length=1)]

    @property
    def image_size(self) -> int:
        """The largest input of the files, in pixels."""
        return max(file.image_size for file in self.files)


# pydantic puts the tag into the place of an error. No key of a YAML file looks like one.
TEACHERS: dict[str, type[Strict]] = {"<trained>": TeacherConfig, "<given>": GivenTeacherConfig}


def kind_of_teacher(value: Any) -> str:
    """The tag in TEACHERS that fits the teacher section of a config."""
    has_files = "files" in value if isinstance(value, Mapping) else hasattr(value, "files")
    return "<given>" if has_files else "<trained>"


AnyTeacherConfig = Annotated[
    Annotated[TeacherConfig, Tag("<trained>")] | Annotated[GivenTeacherConfig, Tag("<given>")],
    Discriminator(kind_of_teacher),
]


class SoftLabelsConfig(Strict):
    """Soft labels: the logits of the teacher for each view, from which the student learns."""

    num_views: Annotated[int, Field(gt=0)] = 10
    """Number of different views of each photo. The epochs use them in turn."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Store only this many of the largest logits, and the sum of the rest. null: store all logits,
    which is better below a few hundred classes."""
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The student learns from a photo without a label only if the teacher's probability of its
    answer, the mean over the views, is at least this. 0: from all."""


class StudentConfig(TrainingConfig):
    loss: Choice = Choice(name="kd")
    """The loss that compares the student with the soft labels of its teacher."""
    soft_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the soft-label loss in the total loss. The label loss gets the rest. docs/LOSSES.md
    explains the default."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of photos with labels in each batch, where others have none. null: as photos come."""
    feature_loss: Choice | None = None
    """Also learn from what the teacher computes before its logits: hint, attention, relational or
    simkd. It is added to the other losses. null: learn from the logits alone."""
    control: bool = True
    """Also train a control: the same student on labels alone. It shows what the teacher gained."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    """Number of students and controls, each trained from another seed. Two or more show how much of
    a difference is chance."""
    label_curve: list[Annotated[float, Field(gt=0, le=1)]] = []
    """Also train controls on these shares of all labels, those that data.labels_per_class hides
    included. The report says how many labels the teacher replaced."""
    ship: Literal["auto", "student", "control"] = "auto"
    """The model that becomes files. auto: the student, unless its control is better on the
    validation photos beyond chance."""

    @model_validator(mode="after")
    def _needs_a_control(self) -> "StudentConfig":
        if self.seeds > 1 and not self.control:
            raise ValueError("seeds above 1 compare student and control: set control to true")
        if self.label_curve and not self.control:
            raise ValueError("label_curve compares controls: set control to true")
        if self.ship == "control" and not self.control:
            raise ValueError("ship is control, and there is none: set control to true")
        return self


class BudgetConfig(Strict):
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Validation top-1 that the chosen file may lose against the student (0.01: one point)."""
    max_latency_ms: Positive | None = None
    """Largest median latency of the chosen file on the first device. null: no limit."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """Largest size of the chosen file. null: no limit."""


class LeastRuntime(Strict):
    """The oldest runtime that has to open the files."""

    tflite: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?$")] | None = None
    """A version of TensorFlow Lite in quotes, such as "2.14". A recipe that needs a newer one is
    refused. null: the newest."""


class CompressConfig(Strict):
    methods: list[Choice] = []
    """Methods that make the student smaller, in this order. Each works on the result before it."""
    recipes: Annotated[list[Choice], Field(min_length=1)] = [
        Choice(name="tflite.float32"),
        Choice(name="tflite.int8"),
    ]
    """File formats. Each recipe converts the student and the result of each method."""
    output: OutputKind = "probabilities"
    """What the exported files return."""
    calibrate: bool = True
    """Fit one temperature on the validation photos and fold it into the last layer of every model
    that becomes a file. Its answers stay the same; its scores say how often it is right."""
    accepted_accuracy: Share | None = 0.95
    """Write a threshold into each file: the lowest score above which this share of the validation
    photos is right, with one standard error to spare. Below it, a photo may show none of the
    classes. null: none."""
    budget: BudgetConfig = BudgetConfig()
    least_runtime: LeastRuntime = LeastRuntime()


class EvaluateConfig(Strict):
    devices: Annotated[list[Choice], Field(min_length=1)] = [Choice(name="local")]
    """Where latency is measured."""
    num_threads: Annotated[int, Field(gt=0)] = 1
    num_warmup: Annotated[int, Field(ge=0)] = 10
    """Least number of executions before a timed round. More follow until times settle. 0: none."""
    num_runs: Annotated[int, Field(gt=0)] = 200
    """Timed executions of each file, in rounds of ten. More executions show smaller differences."""
    corruptions: list[str] = []
    """Also score models and files on corrupted test photos. Choose from blur, brightness, contrast,
    jpeg, noise and pixelate; each has five strengths."""
    num_corrupted: Annotated[int, Field(gt=0)] = 200
    """Number of test photos to corrupt. Each is scored five times for each corruption."""

    @model_validator(mode="after")
    def _something_is_corrupted(self) -> "EvaluateConfig":
        if self.num_corrupted != 200 and not self.corruptions:
            raise ValueError(
                "num_corrupted has no effect without corruptions; add some, or leave it out"
            )
        return self


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
