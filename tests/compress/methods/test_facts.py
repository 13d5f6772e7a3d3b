"""What methods declare where they register, and what the code does with it."""

import inspect

import pytest

from compress.methods import METHODS, facts_of
from compress.prune import check_order
from configs.errors import UserError
from small_models import experiment_with


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_declares_every_argument_that_a_run_has_to_pass(name: str) -> None:
    _, *parameters = inspect.signature(METHODS[name]).parameters.values()  # the model comes first
    required = {p.name for p in parameters if p.default is inspect.Parameter.empty}
    assert required == set(facts_of(name).needs)


def test_a_misspelt_fact_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._facts, "qat", {"undone": ("magnitude",)})
    with pytest.raises(TypeError, match="undone"):
        facts_of("qat")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cluster", "magnitude"),
        ("magnitude", "channels"),
        ("qat", "cluster"),
        ("qat", "magnitude"),
    ],
)
def test_an_order_in_which_one_method_undoes_another_is_refused(first: str, second: str) -> None:
    message = f"compress.methods has {second} after {first}.* Put {second} first"
    with pytest.raises(UserError, match=message):
        check_order(experiment_with(first, second))


def test_a_method_in_between_does_not_hide_an_order_that_is_refused() -> None:
    with pytest.raises(UserError, match="magnitude after cluster"):
        check_order(experiment_with("cluster", "channels", "magnitude"))


@pytest.mark.parametrize(
    "methods",
    [[], ["channels", "magnitude", "cluster", "qat"], ["channels", "magnitude", "qat"]],
)
def test_an_order_in_which_no_method_undoes_another_is_accepted(methods: list[str]) -> None:
    check_order(experiment_with(*methods))
