import numpy as np
import tensorflow as tf

from compress.graph.inference import TracedModel


def test_the_frozen_function_has_one_input_of_static_shape_and_no_variables(tiny_model, images):
    frozen = TracedModel(tiny_model).frozen_function("logits")
    assert [tuple(tensor.shape) for tensor in frozen.inputs] == [(1, 16, 16, 3)]
    assert not frozen.variables
    assert tuple(frozen.outputs[0].shape) == (1, 4)
    (logits,) = tf.nest.flatten(frozen(tf.constant(images[:1])))
    # Other kernels for other batches: float32 rounding only.
    np.testing.assert_allclose(logits, tiny_model(images[:1]), atol=1e-5)
