from compress.graph.tensor_names import CallNames


def test_a_layer_that_is_called_again_gets_a_number() -> None:
    names = CallNames()
    assert [names.add(name) for name in ("a", "b", "a", "a")] == ["a", "b", "a:2", "a:3"]


def test_a_layer_does_not_take_the_name_of_the_input() -> None:
    assert CallNames().add("image") == "image:2"
