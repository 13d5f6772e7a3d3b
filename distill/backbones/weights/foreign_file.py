"""Keras models of somebody else's: converted in a child process to plain files of Keras 3."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py

from configs.errors import StepFailed, UserError
from configs.loading.backend import with_tensorflow

CONVERTER = "compress.foreign.load"
"""The module that the child process runs. Only `compress` imports tf_keras."""
ADVICE = {
    "teacher": "Write a SavedModel where the teacher was made: model.export(folder) in Keras 3, "
    "model.save(folder) in Keras 2. Then name that folder in teacher.files.",
    "backbone": "Save the model without layers of your own and without Lambda layers, as in\n"
    "  keras.Model(model.inputs, features).save('backbone.keras')",
}
"""What else a user can do, by what the model is for."""


def needs_conversion(path: Path) -> bool:
    """Whether Keras 3 cannot be trusted to read a file: it is an .h5 file, or of Keras 2.

    From .h5 files, Keras 3 restores not all of a Normalization, and it reads a hard sigmoid of
    Keras 2 as its own, which has another slope.
    """
    if not path.is_file():
        return False
    if not zipfile.is_zipfile(path):
        return bool(h5py.is_hdf5(path))
    with zipfile.ZipFile(path) as archive:
        if "metadata.json" not in archive.namelist():
            return False
        return str(json.loads(archive.read("metadata.json")).get("keras_version", "")) < "3"


def convert(source: Path, target: Path, *, of: str) -> None:
    """Write a foreign Keras model as a plain .keras file of Keras 3, in a child process.

    Layers that only matter in training are gone from it. No code in the source is executed.

    Args:
        of: what the model is for, for errors.

    Raises:
        UserError: the source holds no model that can be converted.
        StepFailed: the child process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", CONVERTER, str(source), str(target)],
        capture_output=True,
        text=True,
        env=with_tensorflow(os.environ),
    )
    if done.returncode == 2:
        raise UserError(
            f"the {of} {source} cannot be converted to Keras 3: {done.stdout.strip()}\n"
            f"Options of compress, such as --import, do not exist for a {of}. {ADVICE[of]}"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepFailed(f"{source} could not be converted to Keras 3: {last}")
