"""What strategies decide, and that old runs stay up to date."""

from dataclasses import replace

import pytest

from configs.errors import UserError
from configs.schema.choice import Choice
from configs.schema.training import TrainingConfig
from distill.training.settings import make_plan, training_inputs
from distill.training.strategies import STRATEGIES, Setting
from distill.training.strategies.layers import ALL, HEAD_ONLY, Top

PRETRAINED = Setting(weights="imagenet", num_photos=3_000, epochs=10)


def plan(name: str, setting: Setting = PRETRAINED, **options):
    return STRATEGIES[name](setting=setting, **options)


def test_auto_fits_the_head_and_then_trains_everything() -> None:
    made = plan("auto")
    assert made.head_first
    assert made.freeze_batchnorm
    assert [phase.top for phase in made.phases] == [ALL]
    assert str(made) == "the classifier, then all layers (pretrained)"
    for start in (
        replace(PRETRAINED, weights=None),
        replace(PRETRAINED, from_another_network=True),
    ):
        made = plan("auto", start)
        assert not made.head_first
        assert not made.freeze_batchnorm


@pytest.mark.parametrize(
    ("num_photos", "top", "says"),
    [
        (999, HEAD_ONLY, "the classifier (pretrained, 999 photos)"),
        (1_000, Top(stages=2), "the classifier, then the last 2 stages (pretrained, 1000 photos)"),
        (9_999, Top(stages=2), "the classifier, then the last 2 stages (pretrained, 9999 photos)"),
        (10_000, ALL, "the classifier, then all layers (pretrained, 10000 photos)"),
    ],
)
def test_auto_by_photos(num_photos: int, top: Top, says: str) -> None:
    made = plan("auto", replace(PRETRAINED, num_photos=num_photos), by="photos")
    assert [phase.top for phase in made.phases] == [top]
    assert str(made) == says
    assert (made.num_cached_views is not None) == (top == HEAD_ONLY)


def test_progressive_has_phases_of_equal_length_and_falling_rates() -> None:
    made = plan("progressive")
    assert [phase.epochs for phase in made.phases] == [3, 3, 4]
    assert [phase.top.share for phase in made.phases] == [0.0, 0.2, 1.0]
    assert [phase.rate for phase in made.phases] == pytest.approx([1, 0.3, 0.09])
    assert str(made) == "the classifier, then the last 20% of the layers, then all layers"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"3 phases, and there are 2 epochs"):
        plan("progressive", replace(PRETRAINED, epochs=2))
    with pytest.raises(UserError, match="rising numbers"):
        plan("progressive", shares=[0.5, 0.2])
    with pytest.raises(UserError, match="exclude each other"):
        plan("partial", stages=1, share=0.5)


def config(**settings) -> TrainingConfig:
    backbone = Choice(name="efficientnet_b0", options={"weights": None})
    return TrainingConfig(backbone=backbone, image_size=32, epochs=4, **settings)


def filled(name: str, **options) -> Choice:
    return Choice(name=name, options=STRATEGIES.check(name, options))


def test_settings_that_are_new_count_only_when_they_are_set() -> None:
    usual = training_inputs(config(strategy=filled("auto")))
    assert usual["strategy"] == {"name": "auto"}
    new = {"schedule", "optimizer", "clip_norm", "precision"}
    assert not new & set(usual)
    spelled_out = config(schedule=Choice(name="cosine", options={"warmup": 0.05}))
    assert training_inputs(spelled_out) == training_inputs(config())
    changed = config(
        schedule=Choice(name="cosine", options={"warmup": 0.1}),
        optimizer=Choice(name="sgd"),
        clip_norm=1.0,
        precision="bfloat16",
        strategy=filled("full", rate_decay=0.5),
    )
    inputs = training_inputs(changed)
    assert new <= set(inputs)
    assert inputs["strategy"] == {
        "name": "full", "head_first": False, "freeze_batchnorm": False, "rate_decay": 0.5,
    }  # fmt: skip
    assert "epochs" not in training_inputs(changed, exclude={"epochs"})


def test_adam_has_no_weight_decay() -> None:
    with pytest.raises(ValueError, match=r"weight_decay 0.01 has no effect on optimizer adam"):
        config(optimizer=Choice(name="adam"), weight_decay=0.01)


def test_the_plan_of_a_config_knows_its_start() -> None:
    made = make_plan(config(strategy=filled("auto")), num_photos=5)
    assert str(made) == "all layers (from scratch)"
