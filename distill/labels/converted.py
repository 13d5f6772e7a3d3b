"""Teachers that another Keras wrote: converted once, in a child process, to files of Keras 3."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py

from configs.artifacts import whole_file
from configs.contract import TeacherFile
from configs.errors import StepFailed, UserError
from configs.resume import Built, Step, Workspace, take_step

CONVERTER = "compress.foreign.load"
"""The module that the child process runs. Only `compress` imports tf_keras."""
ROOT = Path(__file__).resolve().parents[2]


def readable_file(file: TeacherFile, sha256: str | None, folder: Path) -> TeacherFile:
    """The same teacher as a file that this process can open.

    An .h5 file, or one of Keras 2, becomes a .keras file in `folder`, named by its digest. A run
    that was copied to a machine without the original uses that.

    Args:
        sha256: of the file; None if it is missing.

    Raises:
        UserError: the file holds no model that can be converted.
    """
    if sha256 is None:
        return file
    target = folder / f"{file.path.stem}-{sha256[:8]}.keras"
    manifest = target.with_name(f"{target.name}.json")
    if not manifest.exists() and not needs_conversion(file.path):
        return file

    def build(workspace: Workspace) -> Built:
        with whole_file(target) as unfinished:
            _convert(file.path, unfinished)
        return [target], {}

    # Processes that label parts of the photos may start together.
    name = f"{file.path.name} for Keras 3"
    take_step(Step(name, manifest, {"file": sha256}, build), wait=True)
    return file.model_copy(update={"path": target})


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


def _convert(source: Path, target: Path) -> None:
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    done = subprocess.run(
        [sys.executable, "-m", CONVERTER, str(source), str(target)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode == 2:
        raise UserError(
            f"the teacher {source} cannot be converted to Keras 3: {done.stdout.strip()}\n"
            "Options of compress, such as --import, do not exist for teachers. Write a SavedModel "
            "where the teacher was made: model.export(folder) in Keras 3, model.save(folder) in "
            "Keras 2. Then name that folder in teacher.files."
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepFailed(f"{source} could not be converted to Keras 3: {last}")
