import numpy as np
import pytest

from small_models import SIZE, build


@pytest.fixture(scope="module")
def b0():
    return build(weights=None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, b0):
    """Name -> a model and the folder that holds it as model.keras and model.weights.h5."""
    folder = tmp_path_factory.mktemp("saved")
    models = {
        "efficientnet_b0": b0,
        "efficientnet_lite0": build("efficientnet_lite0", weights=None),
    }
    for name, model in models.items():
        (folder / name).mkdir()
        model.save(folder / name / "model.keras")
        model.save_weights(folder / name / "model.weights.h5")
    return {name: (model, folder / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3)).astype("float32")
