"""`Experiment`: everything a run is told."""

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

from configs.loading.paths import UserPath

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Choice(BaseModel):
    """A registered name and its options; a choice without options may be a bare name."""

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
    """Where photos come from: folder (class folders, or train/, validation/, test/), digits."""
    path: UserPath | None = None
    """The folder of photos; relative to where the command runs."""
    unlabelled: UserPath | None = None
    """A folder of further photos, in any order: the teacher labels them for the student."""
    validation: Share = 0.1
    """Share of the photos kept for choosing between models."""
    test: Share = 0.2
    """Share of the photos kept for the report."""
    max_skipped: Annotated[float, Field(ge=0, le=1)] = 0.05
    """More unusable photos than this share stop the run."""


class ViewsConfig(Strict):
    crop: Annotated[tuple[float, float], Field()] = (0.5, 1.0)
    """Smallest and largest share of the photo's area that a training crop covers."""
    flip: bool = True
    """Mirror half of the views left to right."""
    vertical_flip: bool = False
    """Mirror half of the views top to bottom."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn by up to so many degrees, either way."""
    shift: Share = 0.0
    """Move by up to this share of the side, either way, both ways."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Slant by up to so many degrees, either way."""
    zoom: Annotated[float, Field(ge=0)] = 0.0
    """Stretch or shrink each side by up to a factor of 1 + zoom."""
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add or take up to this share of white."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Scale the distance to the mean colour by up to 1 +- contrast."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Scale the distance to grey by up to 1 +- saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Turn colours by up to this share of the colour circle, either way."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Add noise of a standard deviation of up to this share of white to the photo's pixels."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the views with a rectangle erased."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Beta(mixup, mixup) draws how much of another photo is blended in; 0 blends none."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Beta(cutmix, cutmix) draws how much another photo covers; 0 cuts none in."""

    @model_validator(mode="after")
    def _crop_in_order(self) -> "ViewsConfig":
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError("crop must be [smallest, largest] with 0 < smallest <= largest <= 1")
        return self


class TrainingConfig(Strict):
    backbone: Choice
    image_size: Annotated[int, Field(ge=32, le=2048)]
    """Height and width of the model's input, in pixels."""
    strategy: Choice = Choice(name="auto")
    """Which layers learn when."""
    epochs: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Peak of the cosine schedule; auto: 1e-3 from scratch, 2e-4 from pretrained weights."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    label_smoothing: Share = 0.0
    class_weights: Literal["balanced"] | None = None
    """balanced: every class counts the same in sum, however few photos it has."""
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Judge and keep the exponential moving average of the weights, which keeps so much of itself
    at each step (0.99: an average over about 100 steps); null keeps the weights themselves."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after so many epochs without a better validation loss; null trains all epochs."""


class TeacherConfig(TrainingConfig):
    """A teacher that is trained here, on the photos of the run."""


class TeacherFile(Strict):
    """A model that somebody trained: .keras, a SavedModel folder, .onnx or .tflite."""

    path: UserPath
    """The file or folder; relative to where the command runs."""
    image_size: Annotated[int, Field(ge=8, le=2048)]
    """Height and width of its input, in pixels."""
    pixels: Literal["0..255", "0..1", "-1..1"] | None = None
    """The range of pixels it expects; null: what the file says of itself, else 0..255."""
    mean: tuple[float, float, float] | None = None
    """Of red, green and blue in 0..255: it expects (pixel - mean) / std. Instead of pixels."""
    std: tuple[Positive, Positive, Positive] | None = None
    """See mean."""

    @model_validator(mode="after")
    def _pixels_said_once(self) -> "TeacherFile":
        if self.pixels is not None and (self.mean or self.std):
            raise ValueError("pixels and mean/std say the same thing twice; give one of them")
        return self


class GivenTeacherConfig(Strict):
    """A teacher that is there already; of several files the mean of their log-probabilities."""

    files: Annotated[list[TeacherFile], Field(min_length=1)]

    @property
    def image_size(self) -> int:
        """The largest of the files' inputs, in pixels."""
        return max(file.image_size for file in self.files)


# In the place where an error is the tag names the kind; nothing in a YAML file can be called so.
TEACHERS: dict[str, type[Strict]] = {"<trained>": TeacherConfig, "<given>": GivenTeacherConfig}


def kind_of_teacher(value: Any) -> str:
    """The tag in TEACHERS of what a config says of its teacher."""
    given = "files" in value if isinstance(value, Mapping) else hasattr(value, "files")
    return "<given>" if given else "<trained>"


AnyTeacherConfig = Annotated[
    Annotated[TeacherConfig, Tag("<trained>")] | Annotated[GivenTeacherConfig, Tag("<given>")],
    Discriminator(kind_of_teacher),
]


class SoftLabelsConfig(Strict):
    num_views: Annotated[int, Field(gt=0)] = 10
    """How many different views of a photo the epochs take turns with."""
    top_k: Annotated[int, Field(gt=0)] | None = None
    """Keep so many of the largest logits and the sum of the others; null keeps all of them, which
    is the better choice below a few hundred classes."""


class StudentConfig(TrainingConfig):
    loss: Choice = Choice(name="kd")
    soft_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the soft-label loss in the total; the label loss gets the rest. docs/LOSSES.md tells
    why it is a half."""
    control: bool = True
    """Also train the same student on labels alone, to know what the teacher was worth."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    """Train student and control so often, each time from another seed, to know what is chance."""

    @model_validator(mode="after")
    def _seeds_have_something_to_compare(self) -> "StudentConfig":
        if self.seeds > 1 and not self.control:
            raise ValueError("seeds above 1 compare student and control: set control to true")
        return self


class BudgetConfig(Strict):
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Validation top-1 that the chosen file may lose against the student (0.01: a point)."""
    max_latency_ms: Positive | None = None
    """Most milliseconds that half of its runs may take, on the first device; null: any."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """Its largest size; null: any."""


class CompressConfig(Strict):
    methods: list[Choice] = []
    recipes: Annotated[list[Choice], Field(min_length=1)] = [
        Choice(name="tflite.float32"),
        Choice(name="tflite.int8"),
    ]
    output: Literal["probabilities", "logits"] = "probabilities"
    """What the files return."""
    budget: BudgetConfig = BudgetConfig()


class EvaluateConfig(Strict):
    devices: Annotated[list[Choice], Field(min_length=1)] = [Choice(name="local")]
    num_threads: Annotated[int, Field(gt=0)] = 1
    num_warmup: Annotated[int, Field(ge=0)] = 10
    """Least executions before the timed ones of a round: more until times settle; 0 for none."""
    num_runs: Annotated[int, Field(gt=0)] = 200
    """Timed executions of a file, ten a round; more of them tell smaller differences."""
    corruptions: list[str] = []
    """Also score models and files on corrupted test photos, at five strengths of each of these:
    blur, brightness, contrast, jpeg, noise, pixelate."""
    num_corrupted: Annotated[int, Field(gt=0)] = 200
    """How many test photos are corrupted; each is then looked at five times for each corruption."""

    @model_validator(mode="after")
    def _something_is_corrupted(self) -> "EvaluateConfig":
        if self.num_corrupted != 200 and not self.corruptions:
            raise ValueError("num_corrupted has no effect without corruptions; name some")
        return self


class Experiment(Strict):
    """One whole experiment."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
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
    """The JSON schema of a config, for editors."""
    return {"title": "Potstill experiment", **Experiment.model_json_schema(by_alias=True)}
