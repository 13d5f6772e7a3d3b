"""Potstill in a notebook: run an experiment, quantize a model, evaluate a file.

from compress.notebook import evaluate_file, quantize, run_experiment
"""

from compress.notebook.functions import evaluate_file, quantize, run_experiment
from compress.notebook.results import FileResult, ModelResult, QuantizeResult, RunResult

__all__ = [
    "FileResult",
    "ModelResult",
    "QuantizeResult",
    "RunResult",
    "evaluate_file",
    "quantize",
    "run_experiment",
]
