"""A Keras 2 model, as tf_keras loads it, becomes a flat Keras 3 model that answers alike."""

from collections.abc import Mapping
from itertools import chain, count
from typing import Any

import keras
import tensorflow as tf

from compress.foreign.answers import NoCounterpart, check_same_answers
from compress.foreign.keras2.layers import counterparts
from compress.foreign.keras2.operations import operation, rescaling


def from_keras2(model: Any) -> keras.Model:
    """The same network in Keras 3, with the same weights. Nested models are unfolded.

    Raises:
        NoCounterpart: it has a part that Keras 3 does not have, or it answers otherwise.
    """
    if len(model.inputs) != 1:
        raise NoCounterpart(f"it has {len(model.inputs)} inputs")
    source = model.inputs[0]
    image = keras.Input(tuple(source.shape[1:]), batch_size=source.shape[0], name="image")
    walk = _Walk(image)
    outputs = walk.model(model, [image])
    converted = keras.Model(image, outputs[0] if len(outputs) == 1 else outputs, name=model.name)
    for layer, made in walk.pairs:
        _copy_weights(layer, made)
    check_same_answers(lambda images: model(images, training=False), converted)
    return converted


class _Walk:
    """Calls the counterpart of every layer of a model, in order.

    Attributes:
        pairs: layers with weights, each with its counterpart.
    """

    def __init__(self, image: Any) -> None:
        self.pairs: list[tuple[Any, Any]] = []
        self._made: dict[int, list[Any]] = {}
        self._names: set[str] = set()
        self._pixels = {id(image)}
        self._alive: list[Any] = [image]  # an id is unique only while its object lives

    def model(self, model: Any, inputs: list[Any], prefix: str = "") -> list[Any]:
        """What a model returns for these inputs."""
        import tf_keras

        if isinstance(model, tf_keras.Sequential):
            (tensor,) = inputs
            for layer in model.layers:
                tensor = self.layer(layer, (tensor,), {}, prefix)
            return [tensor]
        if not hasattr(model, "_nodes_by_depth"):
            raise NoCounterpart(f"the model {model.name!r} is a class of its own, without a graph")
        tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}

        def new(value: Any) -> Any:
            return tensors.get(id(value), value)

        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, kwargs = tf.nest.map_structure(new, (node.call_args, node.call_kwargs))
                results = tf.nest.flatten(self.layer(node.layer, args, kwargs, prefix))
                olds = tf.nest.flatten(node.outputs)
                tensors.update({id(old): made for old, made in zip(olds, results, strict=True)})
        return [tensors[id(output)] for output in model.outputs]

    def layer(self, layer: Any, args: tuple, kwargs: Mapping[str, Any], prefix: str) -> Any:
        """What one layer returns for these arguments."""
        import tf_keras

        if isinstance(layer, tf_keras.Model):
            inputs = tf.nest.flatten(args[0])
            results = self.model(layer, inputs, f"{prefix}{layer.name}.")
            return results[0] if len(results) == 1 else results
        if type(layer).__name__ in ("TFOpLambda", "SlicingOpLambda"):
            result = self._operation(layer, args, kwargs, prefix)
        else:
            # Masks and training=None are for Keras 2 alone. Attention reads several tensors.
            named = {key: v for key, v in kwargs.items() if isinstance(v, keras.KerasTensor)}
            result, *others = args
            for call in self._counterparts(layer, prefix):
                result = call(result, *others, **named)
                others, named = [], {}
        self._alive.append(result)
        return result

    def _operation(self, layer: Any, args: tuple, kwargs: Mapping[str, Any], prefix: str) -> Any:
        image = args[0] if args else None
        if id(image) in self._pixels and (scaling := rescaling(layer, args, kwargs)):
            scaled = keras.layers.Rescaling(*scaling, name=self._new_name(layer.name, prefix))(
                image
            )
            self._pixels.add(id(scaled))
            return scaled
        return operation(layer)(*args, **kwargs)

    def _counterparts(self, layer: Any, prefix: str) -> list[Any]:
        if id(layer) not in self._made:
            made = counterparts(layer, self._new_name(layer.name, prefix))
            self._made[id(layer)] = made
            if layer.weights and made and not isinstance(made[0], keras.layers.Normalization):
                self.pairs.append((layer, made[0]))
        return self._made[id(layer)]

    def _new_name(self, name: str, prefix: str) -> str:
        """The name of a layer in the new model, in which every name is different."""
        numbered = (f"{prefix}{name}.{number}" for number in count(2))
        names = (new for new in chain((name, prefix + name), numbered) if new not in self._names)
        self._names.add(new_name := next(names))
        return new_name


def _copy_weights(layer: Any, made: Any) -> None:
    arrays = layer.get_weights()
    shapes = [tuple(weight.shape) for weight in made.weights]
    if shapes != [array.shape for array in arrays]:
        raise NoCounterpart(f"the layer {layer.name!r} stores its weights otherwise in Keras 3")
    made.set_weights(arrays)
