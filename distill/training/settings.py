"""The settings of a training: what they decide, and how they enter the inputs of a step."""

from collections.abc import Set
from pathlib import Path

from configs.artifacts import ending, file_sha256
from configs.resume import Facts
from configs.schema.training import TrainingConfig
from distill.data.manifest import Examples
from distill.losses import balanced_class_weights
from distill.training.epochs import Schedule
from distill.training.optimizers import OPTIMIZERS, SCHEDULES
from distill.training.strategies import STRATEGIES, Plan, Setting

NEW_SETTINGS = {"clip_norm", "precision", "sampling"}
"""Settings that trainings of earlier versions did not have, besides choices."""
NEW_OPTIONS = {"by", "num_views", "rate_decay"}
"""The same of the options of strategies."""


def training_inputs(config: TrainingConfig, *, exclude: Set[str] = frozenset()) -> Facts:
    """The settings of a training as inputs of a step.

    Settings that are newer than some runs are left out while they have their defaults. So finished
    trainings of these runs stay up to date.

    Args:
        exclude: settings on which the step does not depend.
    """
    defaults = TrainingConfig.model_fields
    unset = {key for key in NEW_SETTINGS if getattr(config, key) == defaults[key].default}
    for key, registry in {"schedule": SCHEDULES, "optimizer": OPTIMIZERS}.items():
        choice, usual = getattr(config, key), defaults[key].default.name
        if choice.name == usual and registry.check(usual, choice.options) == registry.options(
            usual
        ):
            unset.add(key)
    inputs: Facts = config.model_dump(mode="json", exclude=set(exclude) | unset)
    if "strategy" in inputs:
        usual_options = STRATEGIES.options(config.strategy.name)
        inputs["strategy"] = {
            key: value
            for key, value in inputs["strategy"].items()
            if key not in NEW_OPTIONS or value != usual_options[key]
        }
    return inputs


def class_weights(examples: Examples, config: TrainingConfig) -> tuple[float, ...] | None:
    """The weight of an example of each class; None if all examples weigh the same."""
    if config.class_weights is None:
        return None
    return balanced_class_weights(examples.labels, len(examples.classes))


def weights_input(config: TrainingConfig) -> dict[str, str]:
    """The digest of the weights file that the config names, as an input of a step, if it does."""
    weights = config.backbone.options.get("weights") or ""
    path = Path(weights).expanduser()
    is_file = bool(ending(path)) and path.is_file()  # no file that is called imagenet
    return {"weights": file_sha256(path)} if is_file else {}


def make_plan(config: TrainingConfig, *, num_photos: int) -> Plan:
    """The decisions of the config's strategy for its backbone, its weights and so many photos.

    Raises:
        UserError: the options of the strategy do not fit each other or the epochs.
    """
    weights = config.backbone.options.get("weights")
    setting = Setting(
        weights=weights,
        from_another_network=weights == "lite",
        num_photos=num_photos,
        epochs=config.epochs,
    )
    plan: Plan = STRATEGIES[config.strategy.name](setting=setting, **config.strategy.options)
    return plan


def make_schedule(config: TrainingConfig, plan: Plan, *, steps_per_epoch: int) -> Schedule:
    """The schedule of a config; the plan gives the learning rate if the config says auto."""
    is_auto = config.learning_rate == "auto"
    return Schedule(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        learning_rate=plan.learning_rate if is_auto else float(config.learning_rate),
        weight_decay=config.weight_decay,
        patience=config.patience,
        ema_momentum=config.ema_momentum,
        curve=config.schedule,
        optimizer=config.optimizer,
        clip_norm=config.clip_norm,
        scales_loss=config.precision == "float16",
        is_quick=plan.num_cached_views is not None,
    )
