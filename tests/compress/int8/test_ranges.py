import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.graph.gradients import tensors_of
from compress.int8.calibration import CalibratedModel
from compress.int8.ranges import BYTE_RANGE, HEADROOM, choose_ranges, find_twins
from compress.onnx.convert import convert_to_onnx
from compress.recipes import RECIPES, onnx, tflite
from compress.recipes.conversion import Conversion
from compress.recipes.converters import run_tflite_converter, tflite_converter
from configs.errors import UserError


@pytest.fixture(scope="module")
def calibrated(tiny_model, images) -> CalibratedModel:
    return CalibratedModel(tiny_model, images)


@pytest.fixture(scope="module")
def tflite_tensors(calibrated):
    return tflite.tensor_reader(run_tflite_converter(tflite_converter(calibrated.traced, "logits")))


@pytest.fixture(scope="module")
def onnx_tensors(calibrated, tmp_path_factory):
    converted = tmp_path_factory.mktemp("onnx") / "converted.onnx"
    onnx.onnx.save(convert_to_onnx(calibrated.traced, "logits"), converted)
    quant_pre_process(converted, converted.with_name("folded.onnx"))
    return onnx.tensor_reader(converted.with_name("folded.onnx"))


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
def test_tensors_of_a_file_are_found_in_the_model_by_their_values(
    format_, calibrated, images, tflite_tensors, onnx_tensors
):
    run = tflite_tensors if format_ == "tflite" else onnx_tensors
    of_file = [run(image) for image in images[:2]]
    twins = find_twins(of_file, calibrated.model, images[:2])
    assert twins["image"] == "image"
    # The model does not have the gate within a swish. And ONNX may move the channels before it
    # subtracts the offset.
    others = [name for name in of_file[0] if name not in twins]
    assert all("igmoid" in name or "input_offset" in name for name in others), others
    tensors = tensors_of(calibrated.model, images[:2])
    for name, twin in twins.items():
        np.testing.assert_allclose(
            np.sort(np.ravel(of_file[0][name])), np.sort(np.ravel(tensors[twin][0])), atol=1e-3
        )


def test_minmax_covers_all_values_and_zero(calibrated, images, tflite_tensors):
    chosen = choose_ranges(tflite_tensors, calibrated, ranges="minmax").ranges
    for image in images:
        for name, values in tflite_tensors(image).items():
            low, high = chosen[name]
            assert low <= min(0, values.min())
            assert high >= max(0, values.max())


def test_ranges_for_the_loss_are_those_of_the_twins(calibrated, images, tflite_tensors):
    chosen = choose_ranges(tflite_tensors, calibrated, ranges="loss")
    sensitivities = calibrated.sensitivities
    max_cost = HEADROOM * np.mean([tensor.cost for tensor in sensitivities.values()])
    twins = find_twins(
        [tflite_tensors(image) for image in images[:2]], calibrated.model, images[:2]
    )
    assert chosen.twins == twins
    assert {name: chosen.ranges[name] for name in twins} == {
        name: sensitivities[twin].widest(max_cost) for name, twin in twins.items()
    }
    for name, nats in chosen.costs(calibrated).items():
        tensor = sensitivities[twins[name]]
        assert nats == pytest.approx(tensor.cost_within(*chosen.ranges[name]))
        assert tensor.cost * 0.999 <= nats <= max(tensor.cost, max_cost) * 1.001


def test_other_ranges_are_those_of_all_values_of_the_file(calibrated, images, tflite_tensors):
    runs = [tflite_tensors(image) for image in images]
    percentile = choose_ranges(tflite_tensors, calibrated, ranges={"percentile": 90.0}).ranges
    least = choose_ranges(tflite_tensors, calibrated, ranges="mse").ranges
    assert percentile.keys() == least.keys() == runs[0].keys()
    for name in runs[0]:
        values = np.concatenate([np.ravel(run[name]) for run in runs])
        low, high = np.percentile(values, [5, 95])
        if len(values) > 1000:
            # Equal within a bin, which is 6 to 12 % wide, or near 0.
            near = {"rel": 0.12, "abs": 0.02 * float(np.abs(values).max())}
            assert percentile[name] == pytest.approx((min(low, 0), max(high, 0)), **near)
        assert min(values.min(), 0) <= least[name][0] <= 0
        assert 0 <= least[name][1] <= max(values.max(), 0)


@pytest.mark.parametrize("ranges", ["minmax", "mse", {"percentile": 99.9}])
def test_ranges_of_values_need_no_gradients(
    tiny_model, images, tflite_tensors, ranges, monkeypatch
):
    monkeypatch.setattr(
        "compress.int8.calibration.measure_sensitivities",
        lambda *args: pytest.fail("computed gradients"),
    )
    chosen = choose_ranges(tflite_tensors, CalibratedModel(tiny_model, images), ranges=ranges)
    assert all(low <= 0 <= high for low, high in chosen.ranges.values())
    assert len(chosen.ranges) > 10


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
def test_a_reader_returns_the_named_tensors(format_, images, tflite_tensors, onnx_tensors):
    run = tflite_tensors if format_ == "tflite" else onnx_tensors
    everything = run(images[0])
    for names in ([], ["image"], list(everything)[1:3]):
        tensors = run(images[0], names)
        assert list(tensors) == names
        for name in names:
            np.testing.assert_array_equal(tensors[name], everything[name])


@pytest.mark.parametrize("recipe", ["tflite.int8", "onnx.int8"])
@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        ("max", "'loss', 'minmax' or 'mse'"),
        ({"percentile": 101}, "less than or equal to 100"),
        ({"quantile": 99}, "'percentile'"),
        ({}, "'loss', 'minmax' or 'mse'"),
    ],
)
def test_unknown_ranges_are_refused_before_anything_runs(recipe, ranges, problem):
    with pytest.raises(UserError, match=problem):
        RECIPES.check(recipe, {"ranges": ranges})


@pytest.mark.parametrize("ranges", ["loss", "minmax", "mse", {"percentile": 99.99}])
def test_whole_pixels_are_not_rounded(tiny_model, images, tflite_tensors, ranges):
    calibrated = CalibratedModel(
        tiny_model, np.round(images * 0.8)
    )  # photos need not contain a 255
    chosen = choose_ranges(tflite_tensors, calibrated, ranges=ranges)
    assert chosen.ranges["image"] == BYTE_RANGE
    assert chosen.costs(calibrated)["image"] == 0


def test_an_int8_file_has_the_steps_of_its_ranges(tiny_model, images, tmp_path):
    path = tmp_path / "int8.tflite"
    tflite.RECIPES["tflite.int8"](
        Conversion(tiny_model, lambda: iter(images)), path, output="logits", ranges="minmax"
    )
    graph = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]
    quantize = graph.operators[0]
    (step,) = graph.tensors[quantize.outputs[0]].quantization.scale
    assert step == pytest.approx(images.max() / 255, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(127.5, (-128, 127)), (100.0, (-100, 155)), ([120.0, 120.2, 120.1], (-120, 135))],
)
def test_centred_bytes_are_not_rounded(mean, expected, images):
    pixels = keras.Input((16, 16, 3), name="image")
    x = layers.Normalization(mean=mean, variance=np.full_like(mean, 4), axis=-1)(pixels)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, padding="same")(x))
    model = keras.Model(pixels, layers.Dense(3)(x))
    calibrated = CalibratedModel(model, np.round(images * 0.8))
    _content, chosen = tflite.float_file(calibrated, output="logits", ranges="loss")
    (name,) = [name for name, twin in chosen.twins.items() if twin == "input_offset"]
    assert chosen.ranges[name] == pytest.approx(expected)
    assert chosen.costs(calibrated)[name] == 0
