"""Bundles of small models, and the environment of somebody who has no Potstill."""

from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

from bundles import unpacked
from compress import standalone
from compress.bundle.bundle import bundle_file
from compress.standalone import Quantized, quantize_model
from support import save_photo

RUNTIME_PACKAGES = ("numpy", "PIL", "ai_edge_litert", "onnxruntime", "flatbuffers")
LIBRARIES = ("numpy.libs", "pillow.libs")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of thirty photos each; they are wider than high."""
    root = tmp_path_factory.mktemp("bundled") / "photos"
    for label, first in (("cat", 0), ("dog", 1000)):
        for number in range(30):
            save_photo(root / label / f"{number}.png", seed=first + number, size=(61, 40))
    return root


@pytest.fixture(scope="session")
def quantized(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """A foreign model as an int8 file with uint8 at both edges, and as a float ONNX file."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((24, 20, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    folder = tmp_path_factory.mktemp("models")
    model.save(folder / "mine.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "NUM_RUNS", 20)
        return quantize_model(
            folder / "mine.keras",
            data=photos,
            recipes=["int8:input_type=uint8,output_type=uint8", "onnx.float32"],
            out=folder,
            budget=None,
        )


@pytest.fixture(scope="session")
def files(quantized: Quantized) -> dict[str, Path]:
    """The files by their endings."""
    paths = [Path(row["path"]) for row in quantized.rows]
    return {path.suffix[1:]: path for path in paths}


@pytest.fixture(scope="session", params=["tflite", "onnx"])
def bundle(
    request: pytest.FixtureRequest,
    files: dict[str, Path],
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An unpacked bundle of each format."""
    folder = tmp_path_factory.mktemp("unpacked")
    made = bundle_file(files[request.param], data=photos, out=folder / "bundle.zip")
    return unpacked(made.path)


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with runtimes, numpy and Pillow, and nothing of this project."""
    folder = tmp_path_factory.mktemp("packages")
    for name in RUNTIME_PACKAGES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        place = Path(spec.submodule_search_locations[0])
        (folder / name).symlink_to(place)
        for library in LIBRARIES:
            if (place.parent / library).exists() and not (folder / library).exists():
                (folder / library).symlink_to(place.parent / library)
    return folder
