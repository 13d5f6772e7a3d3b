"""A folder of any name stays that folder, and two processes may open one run."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from sklearn.utils import Bunch

from configs.errors import UserError
from configs.loading import targets
from configs.loading.experiment import load_experiment, to_yaml
from configs.loading.targets import CONFIGS, open_run
from configs.loading.yaml_text import dump_yaml, parse_yaml
from configs.registry import Registry
from configs.resume import take_step
from distill.data.scan import data_step

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
    kinds = [
        "source", "backbone", "strategy", "schedule", "optimizer", "loss", "method", "recipe",
        "device", "corruption",
    ]  # fmt: skip
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


@pytest.mark.parametrize("words", [("s3://bucket/photos/",), ("photos", "s3://bucket/photos")])
def test_the_url_of_photos_stays_a_url(tmp_path: Path, words: tuple[str, ...]) -> None:
    target, *places = words
    overrides = [f"data.path={place}" for place in places]
    run, experiment = open_run(
        target, run=tmp_path / "run", overrides=overrides, registries=registries
    )
    assert experiment.data.path == "s3://bucket/photos"
    assert load_experiment(run.experiment, registries()) == experiment


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
    assert parse_yaml("=") == "="  # YAML 1.1 has a kind of value for it that nobody uses


def test_a_key_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed' appears twice"):
        parse_yaml("seed: 1\nseed: 2")


def test_a_run_that_another_process_begins_meanwhile_is_no_foreign_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def holds_files(folder: Path) -> bool:
        folder.mkdir()
        (folder / "experiment.yaml").write_text("data: {source: digits}")  # by the other process
        return True

    monkeypatch.setattr(targets, "_holds_files", holds_files)
    run, _ = open_run("smoke", run=tmp_path / "run", overrides=[], registries=registries)
    assert run.experiment.exists()


def test_a_digit_that_two_processes_write_looks_unchanged(tmp_path: Path) -> None:
    run, experiment = open_run("smoke", run=tmp_path, overrides=[], registries=registries)
    first = data_step(run, experiment.data).inputs
    (tmp_path / "data" / "digits" / "0" / "0000.png").unlink()  # it is written again
    assert data_step(run, experiment.data).inputs == first


def _open_and_scan(runs: Path, together: Barrier, errors: "multiprocessing.Queue[str]") -> None:
    """What a command does first, five times: open a run of 200 digits and scan its photos."""
    import sklearn.datasets

    all_digits = sklearn.datasets.load_digits()
    few = Bunch(images=all_digits.images[:200], target=all_digits.target[:200])
    sklearn.datasets.load_digits = lambda: few
    try:
        for number in range(5):
            together.wait(60)
            run, experiment = open_run(
                "smoke", run=runs / str(number), overrides=[], registries=registries
            )
            take_step(data_step(run, experiment.data), wait=True)
            scanned = run.photos_manifest.with_suffix(".json")
            together.wait(60)
            before = scanned.stat().st_mtime_ns
            take_step(data_step(run, experiment.data))
            assert scanned.stat().st_mtime_ns == before, "the photos looked new and were scanned"
    except BaseException as error:
        errors.put(f"{type(error).__name__}: {error}")
        together.abort()


def test_two_processes_may_begin_one_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, errors = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_open_and_scan, args=(tmp_path, together, errors)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [errors.get() for _ in range(errors.qsize())] == []
    assert [process.exitcode for process in processes] == [0, 0]
