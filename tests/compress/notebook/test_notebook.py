"""Potstill from Python: a model object, a file, and a whole run."""

import json
import logging
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from compress import standalone
from compress.notebook import (
    FileResult,
    QuantizeResult,
    RunResult,
    evaluate_file,
    quantize,
    run_experiment,
)
from compress.notebook.results import frame_of
from configs.contract import Statement
from configs.errors import UserError
from support import ROOT, save_photo

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("notebook") / "photos"
    for label, first in (("cat", 0), ("dog", 1000)):
        for number in range(30):
            save_photo(root / label / f"{number}.png", seed=first + number)
    return root


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((24, 20, 3)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ],
        name="mine",
    )


@pytest.fixture(scope="module")
def made(
    model: keras.Model, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> QuantizeResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "NUM_RUNS", 20)
        return quantize(
            model, photos, out=tmp_path_factory.mktemp("out"), recipes=["int8"], pixels="0..1"
        )


def test_a_model_object_becomes_measured_files(made: QuantizeResult, model: keras.Model) -> None:
    (file,) = made.files
    assert (file.name, file.recipe) == ("mine-int8.tflite", "tflite.int8")
    assert file.path.stat().st_size == file.file_bytes
    assert file.top1 is not None
    assert file.top1_low is not None
    assert file.top1_low <= file.top1
    assert file.p50_ms is not None
    assert file.p50_ms > 0
    assert (made.chosen, made.reason, made.failures) == (None, "", {})
    assert model.name == "mine"  # it can be used further
    assert model.predict(np.zeros((1, 24, 20, 3)), verbose=0).shape == (1, 2)


def test_a_file_is_evaluated_as_it_was_when_it_was_made(made: QuantizeResult, photos: Path) -> None:
    (file,) = made.files
    again = evaluate_file(file.path, photos, num_runs=5)
    for name in ("top1", "num_photos", "file_bytes", "recipe"):
        assert getattr(again, name) == getattr(file, name)
    assert again.p50_ms is not None
    assert evaluate_file(str(file.path), str(photos)).p50_ms is None


def test_mistakes_are_user_errors(model: keras.Model, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.tflite does not exist"):
        evaluate_file(tmp_path / "nowhere.tflite", photos)
    with pytest.raises(UserError, match="int7"):
        quantize(model, photos, out=tmp_path, recipes=["int7"])
    with pytest.raises(UserError, match="does not exist"):
        run_experiment(tmp_path / "nowhere.yaml")
    wrong = Statement(labels=("cat",))
    with pytest.raises(UserError, match="one label for each class"):
        quantize(model, photos, out=tmp_path, contract=wrong)


def test_notes_are_shown_below_the_cell_and_nothing_stays(
    made: QuantizeResult, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("potstill")
    before = list(log.handlers)
    log.handlers[:] = []
    try:
        evaluate_file(made.files[0].path, photos)
        assert log.handlers == []
    finally:
        log.handlers[:] = before
    assert "contract: 0..255, RGB, crop" in capsys.readouterr().out


def test_results_are_tables_where_pandas_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    file = FileResult("a.tflite", Path("a.tflite"), "tflite.int8", "student", 1000, top1=0.5)
    result = QuantizeResult((file,), "a.tflite", "the <only> file", {})
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        result.files_frame()
    assert result._repr_html_() is None  # the notebook shows the text
    monkeypatch.undo()
    pytest.importorskip("pandas")
    frame = frame_of([file])
    assert list(frame.index) == ["a.tflite"]
    assert frame.loc["a.tflite", "top1"] == 0.5
    page = result._repr_html_()
    assert page is not None
    assert "a.tflite: the &lt;only&gt; file" in page


def test_photos_without_labels_show_whether_a_file_answers_as_its_parent() -> None:
    row = {
        "name": "a.tflite", "path": "files/a.tflite", "recipe": None, "source": "student",
        "file_bytes": 9, "accuracy": None, "latency": [],
        "agreement": {"n": 7, "agreement_with_source": 0.9},
    }  # fmt: skip
    file = FileResult.of_row(row, Path("run"))
    assert (file.path, file.num_photos, file.same_as_parent, file.top1) == (
        Path("run/files/a.tflite"), 7, 0.9, None,
    )  # fmt: skip


def test_the_notebook_of_the_docs_was_executed_without_an_error() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "execute_result" in kinds
    assert "error" not in kinds
    for name in ("run_experiment(", "quantize(", "evaluate_file("):
        assert any(name in "".join(cell["source"]) for cell in code)


@pytest.mark.slow
def test_the_cells_of_the_notebook_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    made, result = names["made"], names["result"]
    assert isinstance(made, QuantizeResult)
    assert [file.recipe for file in made.files] == ["tflite.float32", "tflite.int8"]
    assert isinstance(result, RunResult)
    assert result.chosen in {file.name for file in result.files}
