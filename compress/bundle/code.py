"""The code of a bundle: the example for each language, with the contract of the file in it."""

import json
import re
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import eval
from compress.bundle import classify, serve_page
from compress.bundle.contract import BundleContract
from configs.artifacts import ending
from eval.devices.machine import package_version

TEMPLATES = Path(__file__).with_name("templates")
VIEW = "evaluation_view"
"""The package of a bundle that makes the evaluation view: the modules of Potstill themselves."""

VIEW_MODULES = ("images", "photo_files", "packed_photos", "photo_colours")
IMPORTED = re.compile(rf"from eval\.({'|'.join(VIEW_MODULES)}) import")

RUNTIMES = {".tflite": "ai-edge-litert", ".onnx": "onnxruntime"}
"""The Python package that runs a file, by its ending."""

NPM_RUNTIMES = {
    ".tflite": {"@litertjs/core": "2.5.3", "@litertjs/wasm-utils": "2.5.3"},
    ".onnx": {"onnxruntime-web": "1.30.0"},
}
"""The packages that run a file in a browser: the versions that the tests use."""

CPP_TYPES = {
    "float32": "float", "float64": "double",
    **{f"{u}int{bits}": f"{u}int{bits}_t" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
LITERT_TYPES = {"float32": 1, "int32": 2, "uint8": 3, "int16": 7, "int8": 9}
"""The numbers of LiteRT's element types (litert/c/litert_model_types.h)."""


WEB_TYPES = ("float32", "uint8")
"""The types of numbers that LiteRT.js and the page take and return."""


def has_page(contract: BundleContract) -> bool:
    """Whether a browser can run the file: LiteRT.js knows no int8 at the edges of a file."""
    edges = (contract.numbers_in, contract.numbers_out)
    return all(edge.dtype in WEB_TYPES for edge in edges)


def code_files(contract: BundleContract) -> dict[str, bytes]:
    """The examples by their names in the bundle."""
    suffix = ending(contract.file)
    python = {
        "python/classify.py": _of_bundle(Path(classify.__file__)),
        "python/requirements.txt": _requirements(suffix),
        f"python/{VIEW}/__init__.py": "",
    }
    folder = Path(eval.__path__[0])
    for name in VIEW_MODULES:
        python[f"python/{VIEW}/{name}.py"] = _of_bundle(folder / f"{name}.py")
    web = {
        "web/serve.py": _of_bundle(Path(serve_page.__file__)),
        "web/package.json": json.dumps(
            {"private": True, "dependencies": NPM_RUNTIMES[suffix]}, indent=2
        )
        + "\n",
    }
    texts = {**python, **web, **_rendered(contract)}
    return {
        name: text.encode()
        for name, text in texts.items()
        if has_page(contract) or not name.startswith("web/")
    }


def _of_bundle(path: Path) -> str:
    """A module of Potstill as it stands in a bundle: what it imports lies beside it."""
    return IMPORTED.sub(rf"from {VIEW}.\1 import", path.read_text("utf-8"))


def _requirements(suffix: str) -> str:
    """Without exact versions: the answers are the same with the versions of other years."""
    return f"{RUNTIMES[suffix]}\nnumpy\npillow>={package_version('pillow')}\n"


def environment() -> Environment:
    """Renders the templates of this room; a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"floats": _floats, "cpp_type": CPP_TYPES.get, "litert_type": LITERT_TYPES.get}
    return made


def _rendered(contract: BundleContract) -> dict[str, str]:
    """Every template of a language, without the `.jinja` of its name."""
    suffix = ending(contract.file)
    templates = environment()
    values = {**asdict(contract), "format": suffix[1:], "runtime": RUNTIMES[suffix]}
    texts = {}
    for name in templates.list_templates():
        folder, slash, file = name.partition("/")
        other = {"tflite": "onnx", "onnx": "tflite"}[suffix[1:]]
        if not slash or f"-{other}." in file:
            continue  # the README and the card are rendered with more; the other format is not here
        shown = file.removesuffix(".jinja").replace(f"-{suffix[1:]}.", ".")
        texts[f"{folder}/{shown}"] = templates.get_template(name).render(values)
    return texts


def _floats(values: list[float], suffix: str = "") -> str:
    """Numbers as C++, Kotlin and Swift write them: 127.5f, 0.0f."""
    return ", ".join(f"{float(value)!r}{suffix}" for value in values)
