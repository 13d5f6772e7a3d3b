"""HDF5 files that are damaged so that reading them takes for ever, or gigabytes."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from configs.errors import UserError
from distill.backbones.weights.foreign_file import check_file
from support import ROOT


def test_a_file_in_which_hdf5_goes_in_circles_ends_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "3.15.1"
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")  # the texts, each behind its number and its length
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    code = (
        "from distill.backbones.weights import foreign_file;"
        "foreign_file.MAX_CPU_SECONDS = 0.5; from cli import compress; compress()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "quantize", str(path), "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode
    assert f"killed or crashed while it opened {path}" in result.stderr


def test_a_file_in_which_hdf5_would_reserve_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "3.15.1"
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    # The attribute holds the length of its text, and where that stands.
    length = content.index((6).to_bytes(4, "little") + heap.to_bytes(8, "little"))
    content[length + 2 : length + 4] = b"\xff\xff"
    path.write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(UserError, match=r"model\.h5 is damaged: .* more than 1 GiB of memory"):
        check_file(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
