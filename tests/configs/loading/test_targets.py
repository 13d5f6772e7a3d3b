"""A path is data: whatever a folder is called, it stays that folder."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.loading.experiment import load_experiment, to_yaml
from configs.loading.targets import CONFIGS, open_run
from configs.loading.yaml_text import dump_yaml, parse_yaml
from configs.registry import Registry

NAMES = [
    "photos 📷", "a${b}", "${oc.env:HOME}", "a: b", "x=y,z", "[a]", "{a: b}", "null", "2024", "1e3",
    "a\\b", "it's \"so\"", "-dash", "two\nlines", "# no comment", "ends with space ", "~", "true",
]  # fmt: skip


class AnyName(Registry):
    """A registry that accepts every name, so that no framework has to load."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)

    def __getitem__(self, name: str):
        return lambda: None

    def check(self, name: str, options):
        return dict(options)

    def label(self, name: str, options):
        return name


def registries() -> dict[str, Registry]:
    kinds = ["source", "backbone", "strategy", "loss", "method", "recipe", "device", "corruption"]
    return {kind: AnyName(kind) for kind in kinds}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["target", "set"])
def test_a_folder_of_any_name_is_read_from_there(tmp_path: Path, name: str, way: str) -> None:
    photos = tmp_path / name
    photos.mkdir()
    target, overrides = (
        (str(photos), []) if way == "target" else ("photos", [f"data.path={photos}"])
    )
    run, experiment = open_run(
        target, run=tmp_path / "run", overrides=overrides, registries=registries
    )
    assert experiment.data.path == photos
    # The run directory is a target too, and says the same.
    _, again = open_run(str(run.path), run=None, overrides=[], registries=registries)
    assert again.data.path == photos
    assert (run.path / "experiment.yaml").read_text() == to_yaml(again)


def test_a_name_that_no_text_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path .* not valid UTF-8; rename"):
        load_experiment(CONFIGS / "photos.yaml", registries(), photos=Path("photos\udcff"))


@pytest.mark.parametrize("name", NAMES)
def test_yaml_gives_back_what_it_was_given(name: str) -> None:
    assert parse_yaml(dump_yaml({"path": name, "names": [name, 1.5, None]})) == {
        "path": name,
        "names": [name, 1.5, None],
    }


def test_a_number_with_an_exponent_is_a_number() -> None:
    assert parse_yaml("learning_rate: 1e-3") == {"learning_rate": 0.001}


def test_a_key_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed' appears twice"):
        parse_yaml("seed: 1\nseed: 2")
