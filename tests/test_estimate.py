"""benchmarks/estimate.py: what a run on many photos takes, against values worked by hand."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from compress.config_choices import REGISTRIES
from configs.errors import UserError
from configs.loading.experiment import load_experiment
from configs.loading.targets import CONFIGS
from configs.records import to_json
from configs.schema import Experiment
from distill.advice.duration import Pace
from support import ROOT

SCRIPT = ROOT / "benchmarks" / "estimate.py"


@pytest.fixture(scope="module")
def estimate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("estimate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rates(estimate: ModuleType) -> Any:
    return estimate.Rates(
        scan=0.01,
        decode=0.002,
        teacher=Pace(start=10.0, update=0.02, answer=0.005, view=0.001),
        student=Pace(start=4.0, update=0.01, answer=0.002, view=0.001),
        photo_bytes=100_000.0,
        measured_on="paper",
    )


def smoke(*overrides: str) -> Experiment:
    return load_experiment(CONFIGS / "smoke.yaml", REGISTRIES, list(overrides))


def test_every_step_by_hand(estimate: ModuleType, rates: Any) -> None:
    photos = estimate.Photos("few", 1000, 200, 50, 10)
    scan, teacher, labels, student = estimate.parts(photos, rates, smoke())
    assert (scan.seconds, scan.num_bytes) == (pytest.approx(10.0), 1e8)
    # 200 photos are 3 batches of 64. A view of 1 ms decodes its photo in 2 ms more.
    assert teacher.seconds == pytest.approx(10 + 2 * (192 * (0.02 + 0.003) + 50 * 0.005))
    # Two views of each photo, ten logits of two bytes.
    assert labels.seconds == pytest.approx(1000 * 2 * 0.008)
    assert labels.num_bytes == 1000 * 2 * 10 * 2
    # Student and control: 15 batches.
    assert student.seconds == pytest.approx(2 * (4 + 2 * (960 * 0.013 + 50 * 0.002)))
    assert [part.is_shared for part in (scan, teacher, labels, student)] == [False, *[True] * 3]


def test_seeds_controls_and_top_k_count(estimate: ModuleType, rates: Any) -> None:
    photos = estimate.Photos("few", 1000, 200, 50, 100)
    once = 4 + 2 * (960 * 0.013 + 50 * 0.002)
    three = estimate.parts(photos, rates, smoke("student.seeds=3", "student.label_curve=[0.5]"))
    assert three[-1].seconds == pytest.approx(7 * once)
    alone = estimate.parts(photos, rates, smoke("student.control=false"))
    assert alone[-1].seconds == pytest.approx(once)
    # Ten logits of two bytes, ten classes of two, and four for the others.
    (labels,) = [
        p for p in estimate.parts(photos, rates, smoke("soft_labels.top_k=10"))
        if p.step == "soft labels"
    ]  # fmt: skip
    assert labels.num_bytes == 1000 * 2 * 44


def test_the_labels_of_imagenet_take_ten_gigabytes(estimate: ModuleType, rates: Any) -> None:
    experiment = smoke("soft_labels.num_views=4")
    parts = estimate.parts(estimate.IMAGENET, rates, experiment)
    assert parts[2].num_bytes == 1_281_167 * 4 * 1000 * 2  # 10.2 GB
    assert estimate.parts(estimate.MANY, rates, experiment)[2].num_bytes == 8e11


@pytest.mark.parametrize(
    ("seconds", "num_machines", "end"),
    [
        (10 + 31, 3, 10 + 30),  # 90 s of work in 31 s
        (10 + 30, 3, 10 + 30),
        (10 + 29, 4, 10 + 22.5),
        (1000, 1, 100),
        (10, None, None),  # the scan alone takes that long
    ],
)
def test_machines_by_hand(
    estimate: ModuleType, seconds: float, num_machines: int | None, end: float | None
) -> None:
    steps = [estimate.Part("scan", 10, False, 0), estimate.Part("labels", 90, True, 0)]
    plan = estimate.plan(steps, hours=seconds / 3600, price=36.0)
    assert plan.num_machines == num_machines
    assert plan.hours == (None if end is None else pytest.approx(end / 3600))
    # A hundred seconds are paid, one cent each, however many machines work.
    assert plan.machine_hours == pytest.approx(100 / 3600)
    assert plan.cost == pytest.approx(1.0)
    assert estimate.plan(steps, hours=1, price=None).cost is None


def test_one_rate_can_be_replaced(estimate: ModuleType, rates: Any) -> None:
    assert estimate.with_rate(rates, "teacher.answer=0.0004").teacher.answer == 0.0004
    assert estimate.with_rate(rates, "photo_bytes=110000").photo_bytes == 110_000
    for word in ("teacher.speed=1", "teacher.answer=fast", "nobody.answer=1"):
        with pytest.raises(UserError, match=r"teacher\.answer=0\.0004"):
            estimate.with_rate(rates, word)


def test_the_script_prints_two_sets_and_every_assumption(
    estimate: ModuleType,
    rates: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = tmp_path / "rates.json"
    stored.write_text(json.dumps(to_json(rates)))
    said = _said(estimate, capsys, monkeypatch, "smoke", "--rates", stored, "--price", 2)
    assert "ImageNet: 1,281,167 photos" in said
    assert "100 million photos: 100,000,000 photos, 1,281,167 with labels" in said
    assert said.count("in money") == 2
    assert "measured on paper, 100.0 kB a photo" in said
    words = ("--rates", stored, "--photos", 1000, "--labelled", 200, "--classes", 10, "--json")
    value = json.loads(_said(estimate, capsys, monkeypatch, "smoke", *words))
    (only,) = value["estimates"]
    assert only["steps"][2]["seconds"] == pytest.approx(16.0)
    assert value["rates"]["teacher"]["update"] == 0.02
    assert len(value["assumptions"]) > 5


def _said(
    estimate: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *words: object,
) -> str:
    monkeypatch.setattr(sys, "argv", ["estimate.py", *map(str, words)])
    estimate.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_rates_are_measured_here(
    estimate: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, photo_folder: Path,
) -> None:  # fmt: skip
    stored = tmp_path / "rates.json"
    words = ("--set", "data.source=folder", "--set", f"data.path={photo_folder}")
    _said(estimate, capsys, monkeypatch, "smoke", *words, "--save", stored)
    rates = json.loads(stored.read_text())
    assert 0 < rates["scan"] < 1
    assert 0 < rates["decode"] < 0.1
    assert 0 < rates["teacher"]["answer"] < rates["teacher"]["update"]
    assert rates["photo_bytes"] > 100
