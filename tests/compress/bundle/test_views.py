"""The evaluation view of a bundle in other languages: the same pixels as in Python."""

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.bundle.code import code_files
from compress.bundle.contract import BundleContract, Numbers
from configs.contract import RANGES, InputContract, Pixels
from eval.images import evaluation_view
from eval.scoring.probabilities import as_probabilities

FITS = ("crop", "stretch", "pad")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "area")
PHOTO_SIZES = ((20, 24), (37, 53), (5, 90), (300, 200))  # enlarged, shrunk, both
SIZES = ([32, 32], [24, 17])

CONTRACT = BundleContract(
    file="a.tflite",
    sha256="",
    classes=["a", "b"],
    has_names=True,
    image_size=[24, 17],
    channels="rgb",
    fit="crop",
    interpolation="bilinear",
    pixels=RANGES["0..255"].describe(),
    layout="nhwc",
    numbers_in=Numbers([1, 24, 17, 3], "float32", None, 0),
    numbers_out=Numbers([1, 2], "float32", None, 0),
    output="probabilities",
    threshold=None,
)

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
needs_java = pytest.mark.skipif(
    not (shutil.which("java") and shutil.which("npm")), reason="no Java or no npm"
)


@dataclass(frozen=True)
class Case:
    """A photo, the contract that it is seen under, and what Python makes of it."""

    photo: np.ndarray
    contract: BundleContract

    @property
    def view(self) -> np.ndarray:
        height, width = self.contract.image_size
        return evaluation_view(self.photo, (height, width), self.contract)

    @property
    def input(self) -> np.ndarray:
        """As the model takes it, flat."""
        pixels = self.contract.pixels
        mean, std = ((v[0], v[1], v[2]) for v in (pixels["mean"], pixels["std"]))
        contract = InputContract(Pixels(mean, std), channels=self.contract.channels)
        values = contract.apply(self.view)
        return (values.transpose(2, 0, 1) if self.contract.layout == "nchw" else values).ravel()


def photo_of(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)


def in_javascript(folder: Path, expression: str, arguments: object) -> list:
    """The value of an expression of `view.js` about `arguments`."""
    (folder / "view.mjs").write_bytes(code_files(CONTRACT)["web/view.js"])
    (folder / "arguments.json").write_text(json.dumps(arguments))
    (folder / "main.mjs").write_text(
        "import fs from 'fs'; import * as view from './view.mjs';\n"
        "const given = JSON.parse(fs.readFileSync('arguments.json'));\n"
        f"console.log(JSON.stringify({expression}));\n"
    )
    result = subprocess.run(
        ["node", "main.mjs"], cwd=folder, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def as_json(photo: np.ndarray) -> dict:
    height, width = photo.shape[:2]
    return {"width": width, "height": height, "channels": 3, "pixels": photo.ravel().tolist()}


@needs_node
def test_javascript_gives_the_same_pixels(tmp_path: Path) -> None:
    cases = [
        Case(
            photo_of(photo_size),
            replace(CONTRACT, fit=fit, interpolation=name, channels=channels, image_size=size),
        )
        for photo_size, fit, name, channels, size in product(
            PHOTO_SIZES, FITS, FILTERS, ("rgb", "grey"), SIZES
        )
    ]
    arguments = [{"photo": as_json(c.photo), "contract": asdict(c.contract)} for c in cases]
    views = in_javascript(
        tmp_path,
        "given.map((g) => { g.photo.pixels = Uint8ClampedArray.from(g.photo.pixels);"
        " return Array.from(view.evaluationView(g.photo, g.contract).pixels); })",
        arguments,
    )
    for case, pixels in zip(cases, views, strict=True):
        assert pixels == case.view.ravel().tolist(), case.contract


@needs_node
def test_javascript_gives_the_same_input(tmp_path: Path) -> None:
    torch = RANGES["torch"].describe()
    cases = [
        Case(photo_of((20, 24)), replace(CONTRACT, pixels=torch, channels=channels, layout=layout))
        for channels, layout in product(("rgb", "bgr"), ("nhwc", "nchw"))
    ]
    arguments = [{"photo": as_json(c.photo), "contract": asdict(c.contract)} for c in cases]
    inputs = in_javascript(
        tmp_path,
        "given.map((g) => Array.from("
        "view.inputOf(view.evaluationView(g.photo, g.contract), g.contract)))",
        arguments,
    )
    for case, values in zip(cases, inputs, strict=True):
        assert np.array_equal(np.array(values, "float32"), case.input)


@needs_node
def test_javascript_rounds_and_scores_the_same(tmp_path: Path) -> None:
    # n stands for (n + 3) * 0.5: 0.25 is half-way between -3 and -2 and goes to the even one.
    numbers = {"dtype": "int8", "scale": 0.5, "zero": -3}
    encoded = in_javascript(
        tmp_path,
        "Array.from(view.encoded(Float32Array.from(given.values), given.numbers))",
        {"values": [0.25, 0.75, 1e6, -1e6], "numbers": numbers},
    )
    assert encoded == [-2, -2, 127, -128]
    answers = [[0.2, 0.6], [3.0, -1.0], [0.3], [0.0, 0.0]]
    kinds = ["probabilities", "logits", "score", "probabilities"]
    rows = in_javascript(
        tmp_path,
        "given.map(([answers, kind]) => view.probabilities(answers, kind))",
        list(zip(answers, kinds, strict=True)),
    )
    for values, kind, row in zip(answers, kinds, rows, strict=True):
        expected = as_probabilities(np.array([values], "float32"), kind)[0]
        assert row == pytest.approx(expected.tolist(), abs=1e-6)  # float64 against float32


def code_of(folder: Path, contract: BundleContract, language: str) -> Path:
    """The code of a bundle in one language, written into a folder."""
    for name, content in code_files(contract).items():
        if name.startswith(language):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder / language


CPP_MAIN = """
#include <iostream>
#include "photo.hpp"
int main(int, char** words) {
  const bundle::Photo view = bundle::evaluation_view(bundle::read_photo(words[1]));
  for (int pixel : view.pixels) std::cout << pixel << " ";
  std::cout.precision(9);
  for (float value : bundle::input_of(view)) std::cout << value << " ";
}
"""
KOTLIN_VIEW = """
package {package}
fun numbersOf(width: Int, height: Int, bytes: ByteArray): String {{
    val photo = Photo(width, height, 3, IntArray(bytes.size) {{ bytes[it].toInt() and 0xff }})
    val view = evaluationView(photo)
    return view.pixels.joinToString(" ") + " " + inputOf(view).joinToString(" ")
}}
"""
KOTLIN_MAIN = """
import java.io.File
fun main(words: Array<String>) {{
    for (i in words.indices step 3) {{
        val (width, height) = words.slice(i..i + 1).map {{ it.toInt() }}
        val bytes = File(words[i + 2]).readBytes()
        {calls}
    }}
}}
"""


def check_numbers(text: str, case: Case) -> None:
    numbers = np.array(text.split(), "float32")
    view = case.view.ravel()
    assert np.array_equal(numbers[: view.size], view), case.contract
    assert np.array_equal(numbers[view.size :], case.input), case.contract


def check_cpp(folder: Path, contract: BundleContract, sizes: list[tuple[int, int]]) -> None:
    cpp = code_of(folder, contract, "cpp")
    (cpp / "main.cpp").write_text(CPP_MAIN)
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "view"]
    subprocess.run(["g++", *options, "main.cpp"], cwd=cpp, check=True)
    for size in sizes:
        case = Case(photo_of(size), contract)
        Image.fromarray(case.photo).save(cpp / "photo.ppm")
        result = subprocess.run(
            ["./view", "photo.ppm"], cwd=cpp, capture_output=True, text=True, check=True
        )
        check_numbers(result.stdout, case)


@needs_compiler
def test_cpp_gives_the_same_pixels(tmp_path: Path) -> None:
    check_cpp(tmp_path, CONTRACT, list(PHOTO_SIZES))


def other_contracts() -> list[BundleContract]:
    """Every fit and filter, and each other option at least once."""
    contracts = [
        replace(CONTRACT, fit=fit, interpolation=name) for fit, name in product(FITS, FILTERS)
    ]
    torch = RANGES["torch"].describe()
    contracts[1] = replace(contracts[1], pixels=torch, channels="bgr", layout="nchw")
    contracts[2] = replace(contracts[2], pixels=torch, channels="bgr")
    contracts[3] = replace(contracts[3], layout="nchw", output="logits")
    contracts[4] = replace(contracts[4], channels="grey", output="scores")
    contracts[5] = replace(contracts[5], channels="grey", layout="nchw")
    one = Numbers([1, 1], "float32", None, 0)
    contracts[6] = replace(contracts[6], output="score", numbers_out=one)
    contracts[7] = replace(contracts[7], output="logits", numbers_out=one)
    return contracts


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("contract", other_contracts(), ids=lambda c: f"{c.fit}-{c.interpolation}")
def test_cpp_gives_the_same_pixels_under_any_contract(
    contract: BundleContract, tmp_path: Path
) -> None:
    check_cpp(tmp_path, contract, list(PHOTO_SIZES))


@pytest.mark.slow
@needs_java
def test_kotlin_gives_the_same_pixels_under_any_contract(tmp_path: Path) -> None:
    """Compiled together, each contract in a package of its own."""
    npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", tmp_path, "kotlin-compiler"]
    if subprocess.run(npm, capture_output=True).returncode:
        pytest.skip("npm has no kotlin-compiler here")
    contracts = [CONTRACT, *other_contracts()]
    for number, contract in enumerate(contracts):
        kotlin = code_of(tmp_path / f"v{number}", contract, "kotlin")
        view = kotlin / "EvaluationView.kt"
        view.write_text(view.read_text().replace("package bundle", f"package v{number}"))
        (kotlin / "View.kt").write_text(KOTLIN_VIEW.format(package=f"v{number}"))
        (kotlin / "Classifier.kt").unlink()  # it needs Android
    calls = [f"println(v{number}.numbersOf(width, height, bytes))" for number in range(16)]
    (tmp_path / "Main.kt").write_text(KOTLIN_MAIN.format(calls="\n        ".join(calls)))
    compiler = tmp_path / "node_modules" / "kotlin-compiler" / "bin" / "kotlinc"
    jar, sources = tmp_path / "views.jar", [tmp_path / "Main.kt", *tmp_path.glob("v*/kotlin/*.kt")]
    subprocess.run(["bash", compiler, *sources, "-include-runtime", "-d", jar], check=True)
    words: list[str] = []
    for height, width in PHOTO_SIZES:
        path = tmp_path / f"{height}.rgb"
        path.write_bytes(photo_of((height, width)).tobytes())
        words += [str(width), str(height), str(path)]
    java = ["java", "-cp", str(jar), "MainKt", *words]
    lines = subprocess.run(java, capture_output=True, text=True, check=True).stdout.splitlines()
    cases = [Case(photo_of(size), contract) for size in PHOTO_SIZES for contract in contracts]
    for case, line in zip(cases, lines, strict=True):
        check_numbers(line, case)


def test_a_file_that_no_browser_runs_gets_no_page() -> None:
    at_the_edge = replace(CONTRACT, numbers_in=Numbers([1, 24, 17, 3], "int8", 1.0, -128))
    assert not [name for name in code_files(at_the_edge) if name.startswith("web/")]
    assert "web/index.html" in code_files(CONTRACT)


def test_the_code_of_each_language_holds_the_pixels_of_the_contract() -> None:
    files = code_files(replace(CONTRACT, pixels=RANGES["torch"].describe()))
    for name in ("cpp/view.hpp", "kotlin/EvaluationView.kt"):
        assert "123.675f, 116.28f, 103.53f" in files[name].decode()
    assert "123.675, 116.28, 103.53" in files["swift/EvaluationView.swift"].decode()
