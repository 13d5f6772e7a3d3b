"""Recipes as a user types them."""

import pytest

from compress.recipe_words import recipe_choices
from configs.errors import UserError


def test_options_stand_behind_the_name() -> None:
    (choice,) = recipe_choices(["int8:num_images=200,keep_float=[stem, head],ranges=mse"], {})
    assert choice.name == "tflite.int8"
    assert choice.options["num_images"] == 200
    assert choice.options["keep_float"] == ["stem", "head"]
    assert choice.options["ranges"] == "mse"
    (choice,) = recipe_choices(["onnx.int8:ranges={percentile: 99.9}"], {})
    assert choice.options["ranges"] == {"percentile": 99.9}


def test_edges_reach_the_recipes_that_have_them() -> None:
    edges = {"input_type": "uint8", "output_type": "int8"}
    int8, float32 = recipe_choices(["int8", "float32"], edges)
    assert (int8.options["input_type"], int8.options["output_type"]) == ("uint8", "int8")
    assert float32.options == {}


@pytest.mark.parametrize(
    ("words", "edges", "says"),
    [
        (["int8:num_images"], {}, "expected options as NAME=VALUE"),
        (["int8:images=3"], {}, "has no option images"),
        (["int8:num_images=none"], {}, "option num_images of recipe 'tflite.int8' is 'none'"),
        (["int8:num_images=="], {}, "option num_images of recipe 'tflite.int8' is '='"),
        (["int8:ranges={"], {}, "--recipe int8:ranges={: while parsing a flow"),
        (["int9"], {}, "int9"),
        (["int8", "tflite.int8:num_images=9"], {}, "tflite.int8 comes twice"),
        (
            ["float32"],
            {"input_type": "uint8"},
            "--input-type uint8 has no effect on tflite.float",
        ),
        (["int8"], {"input_type": "uint4"}, "option input_type of recipe 'tflite.int8' is 'uint4'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], edges: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_choices(words, edges)
    assert says in str(error.value)
