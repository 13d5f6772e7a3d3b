"""The options of the input contract, as a user types them."""

from pathlib import Path

import pytest

from commands.contract import ContractOptions
from configs.contract import RANGES, Pixels, Statement
from configs.errors import UserError


def test_options_become_a_statement(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("0 red\n1 blue\n")
    choice = ContractOptions(
        mean="10,20,30", std="2", fit="pad", labels=str(labels), answers="scores", contract="auto"
    ).choice()
    assert choice.automatic
    assert choice.statement == Statement(
        pixels=Pixels((10, 20, 30), (2, 2, 2)), fit="pad", labels=("red", "blue"), answers="scores"
    )
    assert ContractOptions().choice().statement == Statement()


def test_caffe_means_that_blue_comes_first() -> None:
    statement = ContractOptions(pixels="caffe").choice().statement
    assert statement == Statement(pixels=RANGES["caffe"], channels="bgr")
    with pytest.raises(UserError, match="blue comes first, and --channels is rgb"):
        ContractOptions(pixels="caffe", channels="rgb").choice()


def test_folders_are_put_in_natural_order() -> None:
    classes = ["1", "10", "2"]
    natural = ContractOptions(labels="natural").choice()
    assert natural.of_classes(classes).labels == ("1", "2", "10")
    alphabetical = ContractOptions(labels="alphabetical").choice()
    assert alphabetical.of_classes(["2", "1", "10"]).labels == ("1", "10", "2")
    with pytest.raises(UserError, match="there are none"):
        natural.of_classes([])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pixels": "0..7"}, "--pixels 0..7: expected one of 0..255, 0..1, -1..1, caffe, torch"),
        ({"pixels": "0..1", "mean": "3"}, "say the same thing twice"),
        ({"mean": "1,2"}, "--mean 1,2: expected R,G,B"),
        ({"std": "1,0,1"}, "--std 1,0,1: expected R,G,B"),
        ({"fit": "letterbox"}, "--fit letterbox: expected one of crop, stretch, pad"),
        ({"channels": "RGB"}, "--channels RGB: expected one of rgb, bgr, grey"),
        ({"contract": "yes"}, "--contract yes: expected one of auto"),
        ({"labels": "none.txt"}, "--labels none.txt is no file"),
        (
            {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"},
            "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as error:
        ContractOptions(**options).choice()
    assert says in str(error.value)
