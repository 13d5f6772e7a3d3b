import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress import onnx, tflite
from compress.calibration import Calibrated
from compress.ranges import BYTES, _twins, file_ranges
from compress.sensitivity import tensors_of


@pytest.fixture(scope="module")
def ready(tiny_model, images) -> Calibrated:
    return Calibrated(tiny_model, images)


@pytest.fixture(scope="module")
def simple(ready) -> keras.Model:
    return ready.model


@pytest.fixture(scope="module")
def tflite_tensors(simple):
    return tflite._all_tensors(tflite._converted(tflite._converter(simple, "logits")))


@pytest.fixture(scope="module")
def onnx_tensors(simple, tmp_path_factory):
    converted = tmp_path_factory.mktemp("onnx") / "converted.onnx"
    onnx.onnx.save(onnx._converted(simple, "logits"), converted)
    quant_pre_process(converted, converted.with_name("folded.onnx"))
    return onnx._all_tensors(converted.with_name("folded.onnx"))


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
def test_tensors_of_a_file_are_found_in_the_model_by_their_values(
    format_, simple, images, tflite_tensors, onnx_tensors
):
    run = tflite_tensors if format_ == "tflite" else onnx_tensors
    of_file = [run(image) for image in images[:2]]
    twins = _twins(of_file, simple, images[:2])
    assert twins["image"] == "image"
    # What an activation of the model hides from it: the gate within a swish. And ONNX moves
    # channels before it subtracts the offset, or after.
    lost = [name for name in of_file[0] if name not in twins]
    assert all("igmoid" in name or "input_offset" in name for name in lost), lost
    tensors = tensors_of(simple, images[:2])
    for name, twin in twins.items():
        np.testing.assert_allclose(
            np.sort(np.ravel(of_file[0][name])), np.sort(np.ravel(tensors[twin][0])), atol=1e-3
        )


def test_minmax_covers_all_values_and_zero(ready, images, tflite_tensors):
    found = file_ranges(tflite_tensors, ready, ranges="minmax").ranges
    for image in images:
        for name, values in tflite_tensors(image).items():
            low, high = found[name]
            assert low <= min(0, values.min())
            assert high >= max(0, values.max())


def test_ranges_for_the_loss_are_those_of_the_twins(ready, images, tflite_tensors):
    found = file_ranges(tflite_tensors, ready, ranges="loss")
    known = ready.sensitivities
    twins = _twins([tflite_tensors(image) for image in images[:2]], ready.model, images[:2])
    assert found.twins == twins
    assert {name: found.ranges[name] for name in twins} == {
        name: known[twin].best[:2] for name, twin in twins.items()
    }
    for name, nats in found.costs(ready).items():
        assert nats == pytest.approx(known[twins[name]].cost)


@pytest.mark.parametrize("ranges", ["loss", "minmax"])
def test_pixels_in_whole_numbers_are_not_rounded(tiny_model, images, tflite_tensors, ranges):
    ready = Calibrated(tiny_model, np.round(images * 0.8))  # no photo need have a 255
    found = file_ranges(tflite_tensors, ready, ranges=ranges)
    assert found.ranges["image"] == BYTES
    assert found.costs(ready)["image"] == 0


def test_an_int8_file_has_the_steps_of_its_ranges(tiny_model, simple, images, tmp_path):
    path = tmp_path / "int8.tflite"
    tflite.RECIPES["tflite.int8"](
        tiny_model, path, calibration=lambda: iter(images), output="logits", ranges="minmax"
    )
    graph = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]
    quantize = graph.operators[0]
    (step,) = graph.tensors[quantize.outputs[0]].quantization.scale
    assert step == pytest.approx(images.max() / 255, rel=1e-3)
