"""The backend of Keras, chosen before Keras is imported: TensorFlow, or JAX for training."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

VARIABLE = "KERAS_BACKEND"
"""The environment variable that Keras reads when it is first imported."""


def check_backend() -> None:
    """Check that Keras can be imported with the backend that the environment names.

    Raises:
        UserError: the backend is not one of ours, or it is not installed.
    """
    name = os.environ.get(VARIABLE, "tensorflow")
    if name not in ("tensorflow", "jax"):
        raise UserError(
            f"{VARIABLE} is {name!r}. Expected tensorflow or jax. Unset it, or train on JAX: "
            f"{VARIABLE}=jax"
        )
    if find_spec(name) is None:
        raise UserError(
            f"{VARIABLE} is {name}, and {name} is not installed. Install it: "
            f"pip install 'potstill[{name}]'. Or unset the variable."
        )
    if name == "jax":
        # JAX would take most of a GPU's memory at once, and later a child on TensorFlow needs some.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def with_tensorflow(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process that runs a module of ours on TensorFlow."""
    path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return {**environment, VARIABLE: "tensorflow", "PYTHONPATH": path}


def use_tensorflow() -> None:
    """Let Keras compute with TensorFlow, whatever the environment says.

    Files are written by TensorFlow's converter. Models cross as `.keras` files.
    """
    os.environ[VARIABLE] = "tensorflow"
