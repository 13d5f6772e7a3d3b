import json
from pathlib import Path

import pytest

from compress.config_choices import REGISTRIES
from configs.errors import UserError
from configs.loading.experiment import load_experiment, to_yaml
from configs.schema import Experiment, json_schema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL_CONFIGS = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture(scope="module")
def names() -> dict:
    return REGISTRIES


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.stem)
def test_every_bundled_config_names_only_what_exists(path: Path, names: dict) -> None:
    experiment = load_experiment(path, names)
    assert experiment.student.loss.options  # written out, defaults and all


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.stem)
def test_an_experiment_written_out_reads_back_as_itself(
    path: Path, names: dict, tmp_path: Path
) -> None:
    experiment = load_experiment(path, names)
    written = tmp_path / "experiment.yaml"
    written.write_text(to_yaml(experiment))
    assert load_experiment(written, names) == experiment


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.stem)
def test_every_bundled_config_says_how_to_run_it(path: Path) -> None:
    assert f"distill run {path.stem}" in path.read_text() or path.stem == "photos"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.epoch=5", r"unknown key student.epoch. Did you mean epochs\?"),
        ("[/]=5", r"unknown key \[/\]\."),
        ("student.[epochs]=5", r"unknown key student\.\[epochs\]\. Did you mean epochs\?"),
        ("student.epochs=0", r"student.epochs is 0: .*greater than 0"),
        ("student.epochs=many", r"student.epochs is 'many'"),
        ("student.loss.name=kdd", r"student.loss: unknown loss 'kdd'"),
        ("student.loss.temprature=2", r"student.loss: loss 'kd' has no option temprature"),
        ("student.loss.temperature=hot", r"temperature of loss 'kd' is 'hot'"),
        ("student.loss.temperature=.inf", "Input should be a finite number"),
        ("student.soft_weight=.nan", "Input should be a finite number"),
        ("trackers=[{name: tensorboard, log: 1, 2: {a: b}}]", r"trackers"),
        ("tune={space: {student.soft_weight: {low: 0, hi: 1}}}", r"tune\.space"),
        ("teacher.backbone.name=efficientnet_b9", r"teacher.backbone: unknown backbone"),
        ("teacher.backbone.weights=imagnet", r"weights"),
        ("compress.recipes=[tflite.int9]", r"recipes\[0\]: unknown recipe 'tflite.int9'"),
        ("compress.recipes=[tflite.int8,tflite.int8]", r"names tflite.int8 twice"),
        ("views.crop=[0.9,0.1]", r"crop must be"),
        ("data.source=tape", r"unknown source 'tape'"),
        ("evaluate.corruptions=[nois]", r"corruptions\[0\]: unknown corruption .* mean noise"),
        ("evaluate.corruptions=[blur,blur]", r"evaluate.corruptions names blur twice"),
        ("evaluate.devices=[local,{name: local}]", r"evaluate.devices names local twice"),
        ("evaluate.corruptions=[]", r"num_corrupted has no effect without corruptions"),
        ("no_equals_sign", r"expected key.path=value"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(override: str, message: str, names: dict) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(CONFIGS / "smoke.yaml", names, [override])


def test_one_device_may_be_there_with_other_cores(names: dict) -> None:
    devices = "evaluate.devices=[local,{name: local, cores: [1]}]"
    experiment = load_experiment(CONFIGS / "smoke.yaml", names, [devices])
    assert [device.options["cores"] for device in experiment.evaluate.devices] == [None, [1]]


def test_an_override_reads_numbers_as_yaml_would_not(names: dict) -> None:
    experiment = load_experiment(CONFIGS / "smoke.yaml", names, ["student.learning_rate=1e-3"])
    assert experiment.student.learning_rate == pytest.approx(1e-3)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1", "just words", "\0\0"])
def test_what_is_no_config_is_refused(text: str, names: dict, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_experiment(path, names)


def test_the_schema_file_for_editors_is_the_schema() -> None:
    assert json.loads((CONFIGS / "experiment.schema.json").read_text()) == json_schema()


def test_defaults_keep_to_the_schema() -> None:
    assert set(json_schema()["properties"]) == set(Experiment.model_fields)


@pytest.mark.parametrize("loss", ["loss: kd", "loss: {name: kd}", ""])
def test_one_option_of_a_choice_can_be_set(loss: str, names: dict, tmp_path: Path) -> None:
    config = tmp_path / "some.yaml"
    config.write_text(
        "data: {source: digits}\n"
        "teacher: {backbone: efficientnet_b0, image_size: 32, epochs: 1}\n"
        f"student:\n  backbone: efficientnet_b0\n  image_size: 32\n  epochs: 1\n  {loss}\n"
    )
    experiment = load_experiment(config, names, ["student.loss.temperature=2.5"])
    assert experiment.student.loss.name == "kd"
    assert experiment.student.loss.options == {"temperature": 2.5}
