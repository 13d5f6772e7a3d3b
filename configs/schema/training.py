"""How a network is trained: teacher, soft labels and student."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from configs.contract import TeacherFile
from configs.records import Share, Strict
from configs.schema.choice import Choice


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
    """Peak of the schedule. auto: as the strategy says. That is 1e-3 from scratch, and with head
    and progressive; 2e-4 for other pretrained networks."""
    schedule: Choice = Choice(name="cosine")
    """How the learning rate changes: constant, exponential, cosine or one_cycle."""
    optimizer: Choice = Choice(name="adamw")
    """The rule of an update: adam, adamw or sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Share of the weights that an update takes away, times the learning rate. Normalization and
    biases have none, and adam has none at all."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest length of the gradient of all weights together. null: no limit that matters."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers that the network computes with while it is trained. Its weights and all files are
    float32."""
    label_smoothing: Share = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: Literal["balanced"] | None = None
    """balanced: all classes have the same total weight, however many photos they have."""
    sampling: Literal["balanced"] | None = None
    """balanced: all classes come equally often, so that photos of small classes come in more views.
    A photo without a label counts to its teacher's answer. null: as photos come."""
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and save a moving average of the weights instead of the weights. It keeps this share
    of itself at each update (0.99: an average over about 100 updates). null: no average."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this many epochs without a better validation loss. null: train all epochs."""

    @model_validator(mode="after")
    def _is_balanced_once(self) -> "TrainingConfig":
        if self.sampling is not None and self.class_weights is not None:
            raise ValueError(
                "sampling and class_weights would both balance the classes: set one of them to null"
            )
        return self

    @model_validator(mode="after")
    def _decays_or_not(self) -> "TrainingConfig":
        # The default is written into the experiment.yaml of every run.
        if self.optimizer.name == "adam" and self.weight_decay not in (0.0, 1e-4):
            raise ValueError(
                f"weight_decay {self.weight_decay:g} has no effect on optimizer adam; use adamw"
            )
        return self


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
