"""`STRATEGIES`: which layers learn when."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from configs.errors import UserError
from configs.registry import Registry
from distill.training.strategies.layers import ALL, HEAD_ONLY, Top

STRATEGIES = Registry("strategy")

Part = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]

FEW, MANY = 1_000, 10_000
"""Numbers of photos from which on a training is one of thousands, or of tens of thousands."""
NUM_VIEWS = 4
"""Views of a photo that pass a frozen network."""


@dataclass(frozen=True)
class Setting:
    """What a strategy decides by.

    Attributes:
        weights: the start of the backbone; None is from scratch.
        from_another_network: the weights were made for another network (`weights: lite`).
        num_photos: that the network learns from, with or without labels.
        epochs: of the whole training.
    """

    weights: str | None
    from_another_network: bool = False
    num_photos: int = 0
    epochs: int = 1

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not None and not self.from_another_network


@dataclass(frozen=True)
class PlannedPhase:
    """A stretch of a training in which the same layers learn.

    Attributes:
        epochs: how many; None: all that are left.
        rate: its learning rate, as a share of that of the config.
    """

    top: Top = ALL
    epochs: int | None = None
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions of a strategy.

    Attributes:
        head_first: fit the classifier on the frozen features before anything else.
        freeze_batchnorm: keep the statistics and scales of the pretrained network; a few thousand
            photos give worse ones.
        learning_rate: the peak, if the config says auto.
        phases: what learns when.
        rate_decay: factor between the learning rates of a stage and of the one above it.
        num_cached_views: the views of each photo that pass the frozen network once, if only the
            classifier learns. None: all photos pass the network in every epoch.
        chosen: why the strategy decided so; empty if the config left no choice.
    """

    head_first: bool
    freeze_batchnorm: bool
    learning_rate: float
    phases: tuple[PlannedPhase, ...] = (PlannedPhase(),)
    rate_decay: float = 1.0
    num_cached_views: int | None = None
    chosen: str = ""

    @property
    def trains_all(self) -> bool:
        """Whether all layers learn in the end."""
        return self.phases[-1].top == ALL

    def __str__(self) -> str:
        tops = [str(phase.top) for phase in self.phases]
        if self.head_first and tops[0] != str(HEAD_ONLY):
            tops.insert(0, str(HEAD_ONLY))
        return ", then ".join(tops) + (f" ({self.chosen})" if self.chosen else "")


FROM_SCRATCH = Plan(head_first=False, freeze_batchnorm=False, learning_rate=1e-3)
PRETRAINED = Plan(head_first=True, freeze_batchnorm=True, learning_rate=2e-4)


@STRATEGIES.add
def auto(*, setting: Setting, by: Literal["weights", "photos"] = "weights") -> Plan:
    """Pretrained: first the head, then everything with BatchNormalization frozen.

    From scratch, or from the kernels of another network (whose activations have other
    statistics), everything learns from the first update.

    Args:
        by: photos: of a pretrained network, hundreds of photos train the classifier, thousands the
            last stages too, and tens of thousands everything.
    """
    if not setting.is_pretrained:
        start = "from scratch" if setting.weights is None else "kernels of another network"
        return replace(FROM_SCRATCH, chosen=start)
    if by == "weights":
        return replace(PRETRAINED, chosen="pretrained")
    chosen = f"pretrained, {setting.num_photos} photos"
    if setting.num_photos < FEW:
        return replace(head(setting=setting), chosen=chosen)
    if setting.num_photos < MANY:
        return replace(partial(setting=setting), chosen=chosen)
    return replace(PRETRAINED, chosen=chosen)


@STRATEGIES.add
def full(
    *,
    setting: Setting,
    head_first: bool = False,
    freeze_batchnorm: bool = False,
    rate_decay: Part = 1.0,
) -> Plan:
    """Everything learns from the first update, or after the head.

    Args:
        rate_decay: factor between the learning rates of a stage and of the one above it.
    """
    plan = PRETRAINED if setting.is_pretrained else FROM_SCRATCH
    return replace(
        plan, head_first=head_first, freeze_batchnorm=freeze_batchnorm, rate_decay=rate_decay
    )


@STRATEGIES.add
def head(*, setting: Setting, num_views: Count = NUM_VIEWS) -> Plan:
    """Only the classifier learns, on stored features: each view passes the network once.

    Args:
        num_views: of each photo. A student has at most as many as there are soft labels.
    """
    return Plan(
        head_first=True,
        freeze_batchnorm=True,
        learning_rate=1e-3,
        phases=(PlannedPhase(HEAD_ONLY),),
        num_cached_views=num_views,
    )


@STRATEGIES.add
def partial(
    *,
    setting: Setting,
    stages: Count | None = None,
    share: Part | None = None,
    from_layer: str | None = None,
    head_first: bool = True,
    freeze_batchnorm: bool = True,
    rate_decay: Part = 1.0,
) -> Plan:
    """The upper layers learn, the others stay as they are.

    Args:
        stages: how many stages, counted from the classifier; 2 if nothing else is said.
        share: of the layers that have weights.
        from_layer: the name of the first layer that learns.
    """
    given = [value for value in (stages, share, from_layer) if value is not None]
    if len(given) > 1:
        raise UserError(
            "strategy partial: stages, share and from_layer exclude each other. Keep one of them."
        )
    top = Top(share=share, stages=stages, from_layer=from_layer) if given else Top(stages=2)
    return Plan(
        head_first=head_first,
        freeze_batchnorm=freeze_batchnorm,
        learning_rate=PRETRAINED.learning_rate,
        phases=(PlannedPhase(top),),
        rate_decay=rate_decay,
    )


@STRATEGIES.add
def progressive(
    *,
    setting: Setting,
    shares: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 0.2, 1.0],  # noqa: B006
    falling: Part = 0.3,
    freeze_batchnorm: bool = True,
) -> Plan:
    """More and more layers learn, at rates that fall (Howard and Ruder 2018, section 3.3,
    arXiv:1801.06146, with a few phases in place of one for each layer).

    Args:
        shares: of the layers that have weights, one for each phase; 0: only the classifier. The
            phases have equal numbers of epochs; the last ones get what is left over.
        falling: factor between the learning rate of a phase and that of the one before.
    """
    num_phases = len(shares)
    if not shares or sorted(shares) != list(shares):
        raise UserError(f"strategy progressive: shares are {shares}. Expected rising numbers.")
    if setting.epochs < num_phases:
        raise UserError(
            f"strategy progressive has {num_phases} phases, and there are {setting.epochs} epochs. "
            f"Expected {num_phases} or more. Raise epochs, or shorten shares."
        )
    ends = [setting.epochs * number // num_phases for number in range(num_phases + 1)]
    phases = tuple(
        PlannedPhase(Top(share=share), epochs=ends[number + 1] - ends[number], rate=falling**number)
        for number, share in enumerate(shares)
    )
    return Plan(
        head_first=True, freeze_batchnorm=freeze_batchnorm, learning_rate=1e-3, phases=phases
    )
