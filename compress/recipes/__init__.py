"""`RECIPES`: Keras model -> file, one file for each format."""

from compress.recipes import onnx, tflite
from configs.registry import Registry

RECIPES: Registry = tflite.RECIPES | onnx.RECIPES
