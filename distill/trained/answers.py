"""What a Keras model answers about whole photos."""

from collections.abc import Mapping

import keras
import numpy as np

from configs.contract import OWN_CONTRACT, InputContract
from configs.progress import track
from distill.data.manifest import Examples
from distill.data.pipelines import evaluation_images
from distill.frozen import Answers, answers_of
from distill.training.strategies.lesson import EVALUATION_BATCH
from eval.scoring.probabilities import as_probabilities


def model_probabilities(
    model: keras.Model,
    splits: Mapping[str, Examples],
    *,
    name: str,
    contract: InputContract = OWN_CONTRACT,
) -> dict[str, np.ndarray]:
    """Probabilities of a Keras model that returns logits or probabilities.

    Args:
        name: of the model, for the progress bar.
        contract: how a foreign model wants photos to be fitted; the model takes raw pixels.

    Returns:
        of each split, float32, (examples, classes).
    """
    outputs = model_outputs(model, splits, name=name, contract=contract)
    return {split: as_probabilities(logits, contract.answers) for split, logits in outputs.items()}


def model_outputs(
    model: keras.Model,
    splits: Mapping[str, Examples],
    *,
    name: str,
    contract: InputContract = OWN_CONTRACT,
) -> dict[str, np.ndarray]:
    """What a Keras model answers as it is, float32 (examples, outputs); arguments as above."""
    height, width = model.input_shape[1:3]
    answers = answers_of(model)
    return {
        split: photo_outputs(
            answers, examples, (height, width), name=f"{name} {split}", contract=contract
        )
        for split, examples in splits.items()
    }


def photo_outputs(
    answers: Answers,
    examples: Examples,
    image_size: tuple[int, int],
    *,
    name: str,
    contract: InputContract = OWN_CONTRACT,
) -> np.ndarray:
    """What `answers` says about whole photos, float32 (examples, outputs)."""
    outputs: list[np.ndarray] = []
    with track(f"{name}: accuracy", len(examples)) as advance:
        for images, _ in evaluation_images(examples, image_size, EVALUATION_BATCH, contract):
            outputs.append(answers(images))
            advance(sum(map(len, outputs)))
    return np.concatenate(outputs)
