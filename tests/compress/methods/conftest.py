"""What methods are trained with in tests."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from compress.methods.tfmot.training import FinetuneData


@pytest.fixture
def finetune_data(images: np.ndarray) -> FinetuneData:
    """One batch for every update, five updates in an epoch."""
    targets = np.eye(4, dtype="float32")[np.arange(len(images)) % 4]
    batches = tf.data.Dataset.from_tensors((images, targets)).repeat()
    return FinetuneData(
        train=lambda initial_epoch: batches,
        steps_per_epoch=5,
        loss=lambda targets, logits: -ops.sum(targets * ops.log_softmax(logits), axis=-1),
    )
