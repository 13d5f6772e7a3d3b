"""What a file or folder with a model holds, read without executing anything of it."""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py

from configs.artifacts import is_saved_model
from configs.errors import UserError, is_of_the_machine
from distill.backbones.weights.foreign_file import check_file

EXPECTED = "Expected a whole model: a .keras or .h5 file, or a SavedModel folder."
KERAS_METADATA = "keras_metadata.pb"
"""The file in a SavedModel in which Keras 2 describes the layers."""

Kind = Literal["keras", "h5", "saved_model"]


@dataclass(frozen=True)
class Container:
    """A file or folder with a model.

    Attributes:
        kind: how it is stored. The content decides, not the ending of the name.
        keras_version: of the Keras that wrote it, as "2.15.0"; "" if it does not say.
        config: the layers as Keras describes them; None for a SavedModel without layers.
    """

    path: Path
    kind: Kind
    keras_version: str
    config: Any

    @property
    def is_keras2(self) -> bool:
        """Whether Keras 2 wrote it. The first versions did not write their number."""
        number = re.match(r"[0-9]{1,9}", self.keras_version)
        return number is None or int(number[0]) < 3


def open_container(path: Path) -> Container:
    """What is stored at a path.

    Raises:
        UserError: there is nothing, or it is no whole Keras model.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. {EXPECTED}")
    if path.is_dir():
        return _saved_model(path)
    try:
        check_file(path)
        if zipfile.is_zipfile(path):
            return _keras_file(path)
        if h5py.is_hdf5(path):
            return _h5_file(path)
    except UserError:
        raise
    except Exception as error:  # h5py, zipfile and json raise errors of many kinds
        if is_of_the_machine(error):
            raise
        raise UserError(f"{path} is damaged ({_first_line(error)}). {EXPECTED}") from None
    raise UserError(
        f"{path} is not a Keras model: its first bytes are neither those of a .keras file nor of "
        f"an .h5 file. The file may be damaged or half downloaded. {EXPECTED}"
    )


def _keras_file(path: Path) -> Container:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" not in names:
            raise UserError(
                f"{path} is a ZIP file without a Keras model: config.json is missing. {EXPECTED}"
            )
        config = json.loads(archive.read("config.json"))
        metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
    return Container(path, "keras", str(metadata.get("keras_version", "")), config)


def _h5_file(path: Path) -> Container:
    with h5py.File(path) as file:
        version, config = _text(file.attrs.get("keras_version")), file.attrs.get("model_config")
    if config is None:
        raise UserError(
            f"{path} holds weights and no model. Build the model in Python, read this file with "
            'model.load_weights(), save it with model.save("model.keras"), and give that file.'
        )
    return Container(path, "h5", version, json.loads(_text(config)))


def _saved_model(path: Path) -> Container:
    if not is_saved_model(path):
        raise UserError(f"{path} is a folder without a saved_model.pb. {EXPECTED}")
    metadata = path / KERAS_METADATA
    # Only Keras 2 writes this file. Its version is not in it.
    config = _root_config(metadata) if metadata.exists() else None
    return Container(path, "saved_model", "2" if config else "", config)


def _root_config(metadata: Path) -> Any:
    """How Keras 2 describes a model in a SavedModel; None for a model without a description."""
    from google.protobuf.message import DecodeError
    from tf_keras.protobuf import saved_metadata_pb2

    nodes = saved_metadata_pb2.SavedMetadata()
    try:
        nodes.ParseFromString(metadata.read_bytes())
        roots = [json.loads(node.metadata) for node in nodes.nodes if node.node_path == "root"]
    except (DecodeError, ValueError) as error:
        raise UserError(f"{metadata} is damaged ({_first_line(error)}). {EXPECTED}") from None
    has_layers = roots and "layers" in (roots[0].get("config") or {})
    return roots[0] if has_layers else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
