"""The evaluation view of the page against ours, run by Node.js."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.contract import RANGES, InputContract
from eval.images import evaluation_view
from eval.scoring.probabilities import as_probabilities, output_kind
from support import ROOT

VIEW = ROOT / "eval" / "serve" / "page" / "view.js"
SHAPES = [(24, 20), (20, 24), (61, 47), (7, 5), (300, 41), (33, 33)]
SIZES = [(24, 20), (8, 8), (40, 56), (33, 33)]


def run_in_node(cases: list[dict[str, Any]], call: str, tmp_path: Path) -> Any:
    """The JSON value of a call for each case, in order."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not here")
    script = (
        f"import * as view from {json.dumps(VIEW.as_uri())};\n"
        "import {readFileSync} from 'node:fs';\n"
        "const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'));\n"
        "const cases = JSON.parse(readFileSync(process.argv[2]));\n"
        f"console.log(JSON.stringify(cases.map((item) => {call})));\n"
    )
    (tmp_path / "run.mjs").write_text(script)
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    result = subprocess.run(
        [node, tmp_path / "run.mjs", tmp_path / "cases.json"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def photo_of(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Noise and an edge: what rounding gets wrong first."""
    photo = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    photo[: shape[0] // 2, : shape[1] // 2] = 255
    return photo


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_the_page_sees_the_same_pixels_bit_for_bit(tmp_path: Path, fit: Any) -> None:
    cases, expected = [], []
    for seed, shape in enumerate(SHAPES):
        photo = photo_of(shape, seed)
        opaque = np.dstack([photo, np.full(shape, 255, "uint8")])
        for size in SIZES:
            for interpolation in ("nearest", "bilinear", "bicubic", "lanczos", "area"):
                for channels in ("rgb", "grey"):
                    contract = InputContract(
                        fit=fit, interpolation=interpolation, channels=channels
                    )
                    expected.append(evaluation_view(photo, size, contract).ravel().tolist())
                    cases.append(
                        {
                            "pixels": base64.b64encode(opaque.tobytes()).decode(),
                            "height": shape[0],
                            "width": shape[1],
                            "input": {
                                "image_size": size,
                                "fit": fit,
                                "interpolation": interpolation,
                                "channels": channels,
                            },
                        }
                    )
    call = "[...view.evaluationView(bytes(item.pixels), item.width, item.height, item.input)]"
    views = run_in_node(cases, call, tmp_path)
    different = [
        (case["height"], case["width"], case["input"])
        for case, view, ours in zip(cases, views, expected, strict=True)
        if view != ours
    ]
    assert different == []


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_the_page_scales_pixels_as_we_do(tmp_path: Path, channels: Any) -> None:
    view = photo_of((6, 5), 1)
    contract = InputContract(pixels=RANGES["torch"], channels=channels)
    facts = {"channels": channels, "mean": contract.pixels.mean, "std": contract.pixels.std}
    cases = [
        {"view": base64.b64encode(view.tobytes()).decode(), "input": facts, "isFirst": isFirst}
        for isFirst in (False, True)
    ]
    call = "[...view.inputOf(bytes(item.view), item.input, item.isFirst)]"
    last, first = run_in_node(cases, call, tmp_path)
    ours = contract.apply(view)
    np.testing.assert_array_equal(np.float32(last), ours.ravel())
    np.testing.assert_array_equal(np.float32(first), ours.transpose(2, 0, 1).ravel())


def test_the_page_makes_the_same_probabilities(tmp_path: Path) -> None:
    rows = [
        ([0.2, 0.3, 0.5], None), ([2.0, -1.0, 0.5], None), ([0.9, 0.8, 0.1], None),
        ([0.2, 0.3, 0.5], "logits"), ([0.7], "score"), ([1.5], "logits"), ([0.0, 0.0], None),
        ([0.25, 0.5, 0.26], "probabilities"), ([0.0, 0.0], "probabilities"),
    ]  # fmt: skip
    cases = [{"numbers": numbers, "answers": answers} for numbers, answers in rows]
    found = run_in_node(cases, "view.probabilitiesOf(item.numbers, item.answers)", tmp_path)
    for (numbers, answers), probabilities in zip(rows, found, strict=True):
        outputs = np.float32([numbers])
        kind = answers or output_kind(outputs)
        ours = outputs[0] if kind == "scores" else as_probabilities(outputs, kind)[0]
        np.testing.assert_allclose(probabilities, ours, rtol=1e-6)  # float32 against float64
