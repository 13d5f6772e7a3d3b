"""Data sets of TensorFlow Datasets that lie on this machine; one is made on the spot."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import ColumnsConfig, DataConfig, GroupConfig
from distill.data.scan import data_step
from made_photos import LABELS, data_of, num_of, pixels_of, png_of, skipped_of, stored_pixels

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")


class SmallPets(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Forty photos to train and ten to test."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self):
        features = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            description="Noise.",
            features=features.FeaturesDict({
                "image": features.Image(shape=(None, None, 3)),
                "image/filename": features.Text(),
                "label": features.ClassLabel(names=list(LABELS)),
                "animal": features.Text(),
            }),
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {"train": self._photos(range(40)), "test": self._photos(range(100, 110))}

    def _generate_examples(self, *_):
        raise NotImplementedError

    def _photos(self, numbers):
        for number in numbers:
            yield number, {"image": png_of(number), "image/filename": f"{number}.png",
                           "label": number % 2, "animal": f"a{number // 4}"}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    SmallPets(data_dir=folder).download_and_prepare()
    return folder


def test_a_prepared_data_set_keeps_its_splits_and_bytes(tmp_path: Path, data_dir: Path) -> None:
    facts, photos = data_of(tmp_path / "run", source="tfds:small_pets", path=data_dir)
    assert num_of(photos) == {"cat": 25, "dog": 25}
    assert facts["num_test"] == 10
    assert facts["num_validation"] > 0  # drawn from train
    names = {Path(photo.path).stem.partition("-")[2]: photo for photo in photos}
    assert np.array_equal(stored_pixels(tmp_path / "run", names["17"], facts), pixels_of(17))


def test_the_folder_of_a_version_is_read_too(tmp_path: Path, data_dir: Path) -> None:
    folder = data_dir / "small_pets" / "1.0.0"
    _, photos = data_of(tmp_path / "run", source="tfds:small_pets", path=folder)
    assert len(photos) == 50


def test_groups_come_from_a_feature(tmp_path: Path, data_dir: Path) -> None:
    facts, photos = data_of(
        tmp_path / "run",
        source="tfds:small_pets",
        path=data_dir,
        group=GroupConfig(column="animal"),
        use_splits=False,
    )
    assert facts["num_groups"] == 13
    sides = defaultdict(set)
    for photo in photos:
        sides[photo.group].add(photo.split)
    assert all(len(splits) == 1 for splits in sides.values())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "tfds:no_such_set"}, r"is not on this machine.*\n  tfds build no_such_set"),
        ({"source": "tfds"}, "names no data set"),
        (
            {"source": "tfds:small_pets", "columns": ColumnsConfig(photo="imag")},
            r"no Image 'imag' .*Did you mean image\?",
        ),
        (
            {"source": "tfds:small_pets", "group": GroupConfig(column="pet")},
            r"no feature 'pet'",
        ),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, data_dir: Path, settings, says: str) -> None:
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=data_dir, **settings))


def test_a_damaged_file_of_records_is_an_error(tmp_path: Path) -> None:
    SmallPets(data_dir=tmp_path / "tfds").download_and_prepare()
    (records,) = (tmp_path / "tfds").rglob("*train*tfrecord*")
    content = bytearray(records.read_bytes())
    content[200] ^= 0xFF
    records.write_bytes(content)
    data = DataConfig(source="tfds:small_pets", path=tmp_path / "tfds")
    with pytest.raises(UserError, match=r"tfds:small_pets cannot be read"):
        data_step(RunDir(tmp_path / "run"), data)
    assert not list((tmp_path / "run").rglob("manifest.csv"))


def test_nothing_is_skipped(tmp_path: Path, data_dir: Path) -> None:
    data_of(tmp_path / "run", source="tfds:small_pets", path=data_dir)
    assert skipped_of(tmp_path / "run") == {}
