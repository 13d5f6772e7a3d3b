"""The kinds of models and files that `foreign_files.py` measures."""

from collections.abc import Iterator

import keras
import numpy as np
import onnx
import tensorflow as tf
from foreign_inputs import (
    OWN_LAYER,
    PERMUTED,
    Foreign,
    PhotoFolder,
    Workshop,
    copied,
    fitted,
    keras2_models,
    labelled,
    network,
    run_uint8,
    saved,
    scaled,
    tflite,
    to_onnx,
    with_edge,
    with_tflite_metadata,
    with_ultralytics_keys,
)  # fmt: skip
from keras import layers
from onnx import TensorProto

from configs.contract import RANGES, InputContract

KERAS, TFLITE, ONNX = "Keras 3", "TFLite", "ONNX"
OUTSIDE = {
    "pixels 0..1 outside the model": InputContract(pixels=RANGES["0..1"]),
    "pixels -1..1 outside the model": InputContract(pixels=RANGES["-1..1"]),
    "torchvision's means outside the model": InputContract(pixels=RANGES["torch"]),
    "BGR and Caffe's means outside the model": InputContract(
        pixels=RANGES["caffe"], channels="bgr"
    ),
}
FITS = {
    "trained on stretched photos": InputContract(fit="stretch"),
    "trained on padded photos": InputContract(fit="pad"),
}


def kinds(shop: Workshop) -> Iterator[Foreign]:
    """All of them."""
    model, expected = shop.trained(network())
    yield from containers(shop, model, expected)
    yield from keras2_models(shop)
    yield from precisions(shop)
    yield from with_code(shop)
    yield from contracts(shop)
    yield from heads(shop)
    yield from tflite_files(shop, model, expected)
    yield from onnx_files(shop, model, expected)


def containers(shop: Workshop, model: keras.Model, expected: np.ndarray) -> Iterator[Foreign]:
    """One model in all containers of Keras."""
    data = shop.colours.path
    for name in ("net.keras", "net.h5", "net.hdf5"):
        path = saved(model, shop.place(name))
        yield Foreign(path.suffix, KERAS, path, data, expected)
    path = saved(model, shop.place("exported"))
    yield Foreign("SavedModel of `model.export()`", KERAS, path, data, expected)
    path = shop.place("best.h5")
    model.save_weights(path.with_name("best.weights.h5"))
    copied(path.with_name("best.weights.h5"), path)
    yield Foreign(".h5 with weights alone", KERAS, path, data, None)
    nested = keras.Sequential([network(), layers.Dense(3, activation="softmax")])
    nested, answers = shop.trained(nested)
    yield Foreign(
        "a model inside a model", KERAS, saved(nested, shop.place("n.keras")), data, answers
    )


def precisions(shop: Workshop) -> Iterator[Foreign]:
    """Models that computed in another precision, or that a tool has changed."""
    data = shop.colours.path
    for policy in ("mixed_float16", "mixed_bfloat16"):
        keras.mixed_precision.set_global_policy(policy)
        try:
            model, answers = shop.trained(
                network(),
            )
        finally:
            keras.mixed_precision.set_global_policy("float32")
        yield Foreign(policy, KERAS, saved(model, shop.place("m.keras")), data, answers)

    def hidden(x):
        x = layers.Dense(32, activation="relu", name="hidden")(x)
        return layers.Dense(3, activation="softmax")(x)

    model, _ = shop.trained(network(head=hidden))
    model.quantize("int8")
    path = saved(model, shop.place("q.keras"))
    yield Foreign("quantized by Keras (int8)", KERAS, path, data, shop.answers(model))
    model, _ = shop.trained(network(head=hidden))
    model.get_layer("hidden").enable_lora(2)
    model, answers = shop.trained(model)
    yield Foreign("with LoRA", KERAS, saved(model, shop.place("l.keras")), data, answers)


def with_code(shop: Workshop) -> Iterator[Foreign]:
    """Models with augmentation, a layer of their own, or a Lambda layer."""
    data = shop.colours.path

    def augmented(x):
        x = layers.RandomRotation(0.1)(layers.RandomFlip()(scaled(x)))
        return layers.RandomContrast(0.1)(x)

    model, answers = shop.trained(network(augmented))
    yield Foreign("augmentation inside", KERAS, saved(model, shop.place("a.keras")), data, answers)

    path = shop.place("c.keras")
    source = path.with_name("my_layers.py")
    source.write_text(OWN_LAYER)
    namespace = {"__name__": "my_layers"}
    exec(OWN_LAYER, namespace)
    model, answers = shop.trained(network(lambda x: namespace["Swish"]()(scaled(x))))
    saved(model, path)
    yield Foreign("custom layer", KERAS, path, data, answers)
    yield Foreign("custom layer, `--import`", KERAS, path, data, answers, imports=(source,))

    halved = layers.Lambda(lambda x: x / 127.5 - 1, output_shape=(32, 32, 3), name="halved")
    model, answers = shop.trained(network(halved))
    path = saved(model, shop.place("l.keras"))
    yield Foreign("Lambda layer", KERAS, path, data, answers)
    yield Foreign("Lambda layer, `--allow-lambda`", KERAS, path, data, answers, allow_lambda=True)


def contracts(shop: Workshop) -> Iterator[Foreign]:
    """Models whose pixels, fit or channels are not ours."""
    for kind, contract in {**OUTSIDE, **FITS}.items():
        photos = shop.wide if kind in FITS else shop.colours
        first = scaled if kind in FITS else None
        model, answers = shop.trained(network(first), photos, contract)
        yield Foreign(kind, KERAS, saved(model, shop.place("net.keras")), photos.path, answers)
    grey = InputContract(channels="grey")
    model, answers = shop.trained(network(shape=(32, 32, 1)), shop.grey, grey)
    path = saved(model, shop.place("net.keras"))
    yield Foreign("grey photos", KERAS, path, shop.grey.path, answers)
    path = tflite(model, shop.place("net.tflite"))
    yield Foreign("grey photos", TFLITE, path, shop.grey.path, answers)


def average_of_two(x):
    return layers.Average()([layers.Dense(3, activation="softmax")(x) for _ in range(2)])


def heads(shop: Workshop) -> Iterator[Foreign]:
    """Models that answer in another way, or that are made of other blocks."""
    data = shop.colours.path
    for kind, first, head in (
        ("average of two softmax heads", scaled, average_of_two),
        ("GELU", lambda x: layers.Conv2D(8, 3, activation="gelu")(scaled(x)), None),
        ("LayerNormalization", lambda x: layers.LayerNormalization()(
            layers.Conv2D(8, 3)(scaled(x))), None),
    ):  # fmt: skip
        model, answers = shop.trained(network(first, head))
        yield Foreign(kind, KERAS, saved(model, shop.place("net.keras")), data, answers)

    model = network(head=layers.Dense(3, activation="sigmoid"))
    x, y = shop.colours.read("train", InputContract())
    fitted(model, x, np.eye(3)[y], "binary_crossentropy")
    answers = shop.answers(model)
    answers /= answers.sum(axis=1, keepdims=True)
    path = saved(model, shop.place("net.keras"))
    yield Foreign("independent sigmoids", KERAS, path, data, answers)

    model, answers = shop.trained(network())
    both = keras.Model(model.input, [model.output, model.layers[-2].output])
    path = saved(both, shop.place("net.keras"))
    yield Foreign("two outputs", KERAS, path, data, answers)

    sigmoid = layers.Dense(1, activation="sigmoid")
    model, answers = shop.trained(network(head=sigmoid), shop.pets, loss="binary_crossentropy")
    for library, path in (
        (KERAS, saved(model, shop.place("net.keras"))),
        (TFLITE, tflite(model, shop.place("net.tflite"))),
        (ONNX, to_onnx(model, shop.place("net.onnx"))),
    ):
        yield Foreign("a single sigmoid", library, path, shop.pets.path, answers)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model, _ = shop.trained(network(head=layers.Dense(1)), shop.pets, loss=loss)
    sigmoid = keras.Sequential([model, layers.Activation("sigmoid")])
    path = saved(model, shop.place("net.keras"))
    yield Foreign("a single logit", KERAS, path, shop.pets.path, shop.answers(sigmoid, shop.pets))


def channels_first(model: keras.Model) -> keras.Model:
    """The same model for (channels, height, width)."""
    inputs = keras.Input((3, 32, 32))
    first = keras.Model(inputs, model(layers.Permute((2, 3, 1))(inputs)))
    first(np.zeros((1, 3, 32, 32)))  # Keras exports only a model that was called
    return first


def tflite_files(shop: Workshop, model: keras.Model, expected: np.ndarray) -> Iterator[Foreign]:
    data, images = shop.colours.path, shop.colours.read("train", InputContract())[0]
    plain = tflite(model, shop.place("net.tflite"))
    yield Foreign("TFLiteConverter, float32", TFLITE, plain, data, expected)
    half = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "target_spec": tf.lite.TargetSpec(supported_types=[tf.float16]),
    }
    path = tflite(model, shop.place("net.tflite"), **half)
    yield Foreign("TFLiteConverter, float16", TFLITE, path, data, expected)
    full = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image[None]] for image in images),
        "target_spec": tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        "inference_input_type": tf.uint8,
        "inference_output_type": tf.uint8,
    }
    path = tflite(model, shop.place("net.tflite"), **full)
    answers = run_uint8(path, shop.colours.read("test", InputContract())[0])
    yield Foreign("TFLiteConverter, int8 with uint8 edges", TFLITE, path, data, answers)
    path = tflite(channels_first(model), shop.place("net.tflite"))
    yield Foreign("channels first", TFLITE, path, data, expected)
    path = shop.place("net.tflite")
    path.write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    yield Foreign("half of a file", TFLITE, path, data, None)

    contract = InputContract(pixels=RANGES["0..1"], labels=PERMUTED)
    other, answers = shop.trained(network(None), shop.colours, contract)
    path = with_tflite_metadata(
        tflite(other, shop.place("net.tflite")), shop.place("net.tflite"), PERMUTED
    )
    yield Foreign("TFLite metadata: 0..1, labels", TFLITE, path, data, answers)
    contract = InputContract(labels=PERMUTED)
    other, answers = shop.trained(network(), shop.colours, contract)
    path = labelled(tflite(other, shop.place("net.tflite")), PERMUTED)
    yield Foreign("labels.txt beside it, another order", TFLITE, path, data, answers)


def onnx_files(shop: Workshop, model: keras.Model, expected: np.ndarray) -> Iterator[Foreign]:
    data = shop.colours.path
    plain = to_onnx(model, shop.place("net.onnx"))
    yield Foreign("export of Keras", ONNX, plain, data, expected)
    path = to_onnx(model, shop.place("net.onnx"), opset_version=11)
    yield Foreign("opset 11", ONNX, path, data, expected)
    path = to_onnx(channels_first(model), shop.place("net.onnx"))
    yield Foreign("channels first, as PyTorch", ONNX, path, data, expected)
    path = copied(plain, shop.place("MODEL.ONNX"))
    yield Foreign("MODEL.ONNX in capitals", ONNX, path, data, expected)
    for name, kind in {"float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}.items():
        path = with_edge(plain, shop.place("net.onnx"), kind)
        yield Foreign(f"{name} input", ONNX, path, data, expected)

    split = shop.place("net.onnx")
    onnx.save(
        onnx.load(plain), split, save_as_external_data=True, location="net.data", size_threshold=64
    )
    yield Foreign("weights in a second file", ONNX, split, data, expected)
    yield Foreign(
        "the second file is missing", ONNX, copied(split, shop.place("net.onnx")), data, None
    )

    contract = InputContract(pixels=RANGES["0..1"], labels=PERMUTED)
    other, answers = shop.trained(network(None), shop.colours, contract)
    path = with_ultralytics_keys(
        to_onnx(other, shop.place("net.onnx")), shop.place("net.onnx"), PERMUTED
    )
    yield Foreign("Ultralytics' keys: 0..1, labels", ONNX, path, data, answers)
    for kind, photos, labels in (
        ("classes in natural order (1, 2, 10)", shop.numbers, ("1", "2", "10")),
        ("classes in another order", shop.colours, PERMUTED),
    ):
        yield _ordered(shop, kind, photos, labels)
    more = network(head=layers.Dense(4, activation="softmax"))
    x, y = shop.colours.read("train", InputContract())
    path = to_onnx(fitted(more, x, y + 1), shop.place("net.onnx"))
    yield Foreign("one class more (a background)", ONNX, path, data, None)


def _ordered(shop: Workshop, kind: str, photos: PhotoFolder, labels: tuple[str, ...]) -> Foreign:
    model, answers = shop.trained(network(), photos, InputContract(labels=labels))
    return Foreign(kind, ONNX, to_onnx(model, shop.place("net.onnx")), photos.path, answers)
