"""Keras models of somebody else's: converted in a child process to plain files of Keras 3."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import psutil

from configs.errors import StepFailed, UserError, opening
from configs.process.backend import with_tensorflow

CONVERTER = "compress.foreign.load"
"""The module that the child process runs. Only `compress` imports tf_keras."""
LEAST_LIMIT_BYTES = 2**30
MAX_RATIO = 100
"""Weights hardly shrink in a .keras file."""
MAX_CPU_SECONDS = 20.0
"""The names and attributes in a model's HDF5 file take milliseconds."""
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
    try:
        with open(path, "rb") as file:
            is_archive = file.read(2) == b"PK"  # a .tflite file has an archive at its end
        if not is_archive:
            return bool(h5py.is_hdf5(path))
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist():
                return False
            return str(json.loads(archive.read("metadata.json")).get("keras_version", "")) < "3"
    except Exception:  # it is damaged, and whoever loads it says how
        return False


def check_file(path: Path) -> None:
    """Look whether a file with a model would do harm, before a library reads all of it.

    Raises:
        UserError: it is a .keras file that grows so much that it is an attack.
    """
    if zipfile.is_zipfile(path):
        _check_growth(path)
    elif h5py.is_hdf5(path):
        _check_ends(path)


def _check_growth(path: Path) -> None:
    limit = max(MAX_RATIO * path.stat().st_size, LEAST_LIMIT_BYTES)
    with zipfile.ZipFile(path) as archive:  # it reads no more than is said here
        num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > limit:
        raise UserError(
            f"{path} grows to {num_bytes / 2**20:,.0f} MiB when it is read, which no model of its "
            "size does. If you trust it, save it again with model.save()."
        )


def _check_ends(path: Path) -> None:
    """Read all names and attributes of an HDF5 file, in little time and memory.

    In some damaged files HDF5 goes in circles for ever, and nothing in Python can stop it. So the
    process is killed then, and the one that watches it names the file. In others it reserves up to
    4 GiB for one attribute.

    Raises:
        UserError: an attribute needs more memory than any attribute does.
    """
    with opening(path), _little_memory():
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
        try:
            with h5py.File(path) as file:
                _read_attributes("", file)
                file.visititems(_read_attributes)
        except MemoryError:
            raise UserError(
                f"{path} is damaged: one of its attributes needs more than "
                f"{LEAST_LIMIT_BYTES / 2**30:.0f} GiB of memory. Make it again, or get it again "
                "from where it came from."
            ) from None
        except Exception:  # it is damaged, and whoever loads it says how
            return
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Inside the block, the process gets at most LEAST_LIMIT_BYTES more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + LEAST_LIMIT_BYTES
    if soft == resource.RLIM_INFINITY or limit < soft:
        with contextlib.suppress(ValueError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _read_attributes(_: str, item: h5py.HLObject) -> None:
    for name in item.attrs:
        try:
            item.attrs[name]
        except Exception as error:
            if "allocat" in str(error):  # HDF5 says "memory allocation failed"
                raise MemoryError(str(error)) from None


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
    if done.returncode < 0:
        raise UserError(
            f"the program that reads {source} crashed (signal {-done.returncode}). The file is "
            "damaged. Make it again, or get it again from where it came from."
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepFailed(f"{source} could not be converted to Keras 3: {last}")
