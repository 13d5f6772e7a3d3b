"""What a Keras model answers about whole photos."""

import keras
import numpy as np

from configs.contract import OWN_CONTRACT, InputContract
from configs.progress import track
from distill.data.manifest import Examples
from distill.data.pipelines import evaluation_images
from distill.training.classifier import EVALUATION_BATCH
from eval.scoring.probabilities import as_probabilities


def model_probabilities(
    model: keras.Model, examples: Examples, *, name: str, contract: InputContract = OWN_CONTRACT
) -> np.ndarray:
    """Probabilities of a Keras model that returns logits or probabilities.

    Args:
        contract: how a foreign model wants photos to be fitted; the model takes raw pixels.

    Returns:
        float32, (examples, classes).
    """
    outputs = model_outputs(model, examples, name=name, contract=contract)
    return as_probabilities(outputs, contract.answers)


def model_outputs(
    model: keras.Model, examples: Examples, *, name: str, contract: InputContract = OWN_CONTRACT
) -> np.ndarray:
    """What a Keras model answers, float32 (examples, classes); arguments as above."""
    height, width = model.input_shape[1:3]
    batches = evaluation_images(examples, (height, width), EVALUATION_BATCH, contract)
    outputs_by_batch = []
    with track(f"{name}: accuracy", len(examples)) as advance:
        for images, _ in batches:
            outputs_by_batch.append(np.asarray(model.predict_on_batch(images)))
            advance(sum(map(len, outputs_by_batch)))
    return np.concatenate(outputs_by_batch)
