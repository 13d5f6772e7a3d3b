"""Layers that change nothing when a model answers: augmentation and noise."""

from typing import Any

INERT = {
    "ActivityRegularization", "AlphaDropout", "AugMix", "CutMix", "Equalization",
    "GaussianDropout", "GaussianNoise", "MixUp", "RandAugment", "RandomBrightness",
    "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
    "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
    "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
    "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
    "RandomHeight", "RandomWidth", "Solarization",
}  # fmt: skip
"""Layers of Keras 3 and Keras 2 that return what they read unless the model is trained."""


def is_inert(layer: Any) -> bool:
    """Whether a layer returns what it reads when the model answers.

    A model of such layers alone, as the `data_augmentation` of tutorials, is one too.
    """
    # Not isinstance(layer, keras.Model): layers of tf_keras and of Keras 3 come here.
    parts = [part for part in getattr(layer, "layers", []) if not _is_input(part)]
    if parts:
        return all(map(is_inert, parts))
    package = type(layer).__module__.split(".")[0]
    return package in ("keras", "tf_keras") and type(layer).__name__ in INERT


def _is_input(layer: Any) -> bool:
    return type(layer).__name__ == "InputLayer"
