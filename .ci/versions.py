"""Try the lowest or the highest versions that pyproject.toml allows, in a new environment.

    python .ci/versions.py lowest /tmp/lowest      # 3 GB and about a quarter of an hour
    python .ci/versions.py highest /tmp/highest
    python .ci/versions.py lowest /tmp/lowest --python 3.13 --test tests/test_cli.py

It installs Potstill with all its extras but `docs` and `test`, prints which versions those are, and
runs some tests that touch every package. CI does not run it: run it when a bound changes, and
before a release. It needs uv (`pip install uv`).
"""

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "highest": "highest"}
TOOLS = ["pytest", "pytest-timeout", "pytest-xdist", "markdown-it-py"]
"""What the tests need besides; always the newest."""
TESTS = [
    "tests/test_cli.py", "tests/test_private_apis.py", "tests/configs", "tests/eval/serve",
    "tests/eval/report", "tests/eval/test_photo_files.py", "tests/distill/data/sources",
    "tests/distill/trackers", "tests/distill/advice", "tests/distill/test_losses.py",
    "tests/distill/test_saved_model.py", "tests/compress/recipes", "tests/compress/tuning",
    "tests/compress/notebook",
]  # fmt: skip
NO_PROMISE = {"docs", "test"}
"""Extras for those who work on Potstill. Their versions are those of requirements.lock."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=RESOLUTIONS)
    parser.add_argument("folder", type=Path, help="of the environment, which is made")
    parser.add_argument("--python", default=f"3.{sys.version_info.minor}")
    parser.add_argument("--uv", default="uv", help="the program")
    parser.add_argument("--test", action="append", help="instead of the usual tests; repeatable")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ",".join(sorted(project["optional-dependencies"].keys() - NO_PROMISE))

    def uv(*words: str) -> None:
        subprocess.run([options.uv, *words], cwd=ROOT, check=True)

    python = str(options.folder.resolve() / "bin" / "python")
    if not Path(python).exists():
        uv("venv", "--python", options.python, str(options.folder))
    uv(
        "pip", "install", "--python", python, "--resolution", RESOLUTIONS[options.which],
        "--editable", f".[{extras}]",
    )  # fmt: skip
    uv("pip", "install", "--python", python, *TOOLS)
    uv("pip", "freeze", "--python", python)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIRTUAL_ENV": str(options.folder)}
    environment["PATH"] = f"{Path(python).parent}{os.pathsep}{environment['PATH']}"
    tests = [python, "-m", "pytest", "-n", "0", "-q", *(options.test or TESTS)]
    sys.exit(subprocess.run(tests, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
