"""Every registry that a config chooses from, by the kind of name that it holds."""

import logging

import tensorflow

from compress.methods import METHODS
from compress.recipes import RECIPES
from configs.registry import Registry
from distill.backbones import BACKBONES
from distill.data.sources import SOURCES
from distill.feature_losses import FEATURE_LOSSES
from distill.losses import LOSSES
from distill.trackers import TRACKERS
from distill.training.optimizers import OPTIMIZERS, SCHEDULES
from distill.training.strategies import STRATEGIES
from eval.devices.registry import DEVICES
from eval.scoring.corruption.corruptions import CORRUPTIONS

# TensorFlow warns of retracing when several models predict one after the other.
tensorflow.get_logger().setLevel(logging.ERROR)

REGISTRIES: dict[str, Registry] = {
    "source": SOURCES,
    "backbone": BACKBONES,
    "strategy": STRATEGIES,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "loss": LOSSES,
    "feature_loss": FEATURE_LOSSES,
    "method": METHODS,
    "recipe": RECIPES,
    "device": DEVICES,
    "corruption": CORRUPTIONS,
    "tracker": TRACKERS,
}
