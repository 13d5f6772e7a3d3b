from typing import Annotated

import pytest
from pydantic import Field

from configs.errors import UserError
from configs.registry import Registry


@pytest.fixture
def losses() -> Registry:
    registry = Registry("loss")

    @registry.add
    def kd(*, logits: object, temperature: Annotated[float, Field(gt=0)] = 4.0) -> object:
        return logits

    return registry


def test_an_unknown_name_is_answered_with_the_nearest_one(losses: Registry) -> None:
    with pytest.raises(UserError, match=r"unknown loss 'kdd'. Did you mean kd\?"):
        losses["kdd"]


def test_an_unknown_option_is_answered_with_the_nearest_one(losses: Registry) -> None:
    with pytest.raises(UserError, match=r"no option temprature. Did you mean temperature\?"):
        losses.check("kd", {"temprature": 2.0})


def test_an_option_out_of_range_is_refused_with_its_value(losses: Registry) -> None:
    with pytest.raises(UserError, match=r"temperature of loss 'kd' is -1.*greater than 0"):
        losses.check("kd", {"temperature": -1})


def test_an_argument_without_a_default_is_no_option(losses: Registry) -> None:
    with pytest.raises(UserError, match="no option logits"):
        losses.check("kd", {"logits": 1})


def test_defaults_are_written_out(losses: Registry) -> None:
    assert losses.check("kd", {}) == {"temperature": 4.0}


def test_a_prefix_stands_before_every_name() -> None:
    recipes = Registry("recipe", prefix="tflite.")

    @recipes.add
    def int8() -> None:
        pass

    other = Registry("recipe", prefix="onnx.")
    other.add(int8)
    assert (recipes | other).names() == ["onnx.int8", "tflite.int8"]


def test_a_function_declares_facts_where_it_registers() -> None:
    methods = Registry("method")

    @methods.add
    def channels() -> None:
        pass

    @methods.add(undone_by=("channels",))
    def cluster(*, num_clusters: int = 16) -> int:
        return num_clusters

    @methods.add(name="qat", undone_by=("cluster",))
    def quantization_aware() -> None:
        pass

    assert methods.names() == ["channels", "cluster", "qat"]
    assert methods["cluster"] is cluster
    assert cluster() == 16
    assert methods.facts("channels") == {}
    assert methods.facts("cluster") == {"undone_by": ("channels",)}
    assert (methods | Registry("other")).facts("qat") == {"undone_by": ("cluster",)}
    assert methods.check("cluster", {}) == {"num_clusters": 16}
    with pytest.raises(UserError, match="unknown method 'clusters'"):
        methods.facts("clusters")


def test_a_name_that_is_gone_says_what_to_write_instead() -> None:
    methods = Registry("method")
    methods.retire("old", "new does its work. Write {name: new}.")
    for look_up in (methods.__getitem__, methods.facts, lambda name: methods.check(name, {})):
        with pytest.raises(UserError, match=r"^method 'old' is gone: new does its work\. Write"):
            look_up("old")
    both = methods | Registry("method")
    assert "old" not in both.names()
    with pytest.raises(UserError, match="is gone"):
        both["old"]
