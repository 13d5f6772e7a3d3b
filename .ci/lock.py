"""Write requirements.lock: the packages that the tests run with, and the hashes of their files.

    python .ci/lock.py              # after pyproject.toml changed; all other versions stay
    python .ci/lock.py --installed  # the versions in the environment of this Python
    python .ci/lock.py --upgrade    # the newest versions that pyproject.toml allows

It needs uv (`pip install uv`). One lock holds for every Python and system that Potstill supports.
"""

import argparse
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
NOT_LOCKED = {"pip", "setuptools", "wheel"}
"""They install packages, and a few ask for one of them in a version of their own."""


def installed(project: str) -> str:
    """The packages that are installed here, a line for each."""
    versions = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    # A version with a plus was built here, and no index has it.
    return "".join(
        f"{name}=={version}\n"
        for name, version in sorted(versions.items())
        if name not in {project, *NOT_LOCKED} and "+" not in version
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    versions = parser.add_mutually_exclusive_group()
    versions.add_argument("--installed", action="store_true")
    versions.add_argument("--upgrade", action="store_true")
    parser.add_argument("--uv", default="uv", help="the program")
    options = parser.parse_args()
    uv = shutil.which(options.uv)
    if uv is None:
        sys.exit(f"{options.uv} is not installed. Install it: pip install uv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=").split(",")[0]
    command = [
        uv, "pip", "compile", "pyproject.toml", "--extra", "test", "--universal",
        "--python-version", oldest, "--generate-hashes", "--no-annotate", "--quiet",
        "--custom-compile-command", "python .ci/lock.py",
        # The hashes say which files they are. Any index may send them.
        "--no-emit-index-url", "--no-emit-find-links",
        "--output-file", str(LOCK),
    ]  # fmt: skip
    if options.installed:
        # uv keeps the versions of the file that it writes, wherever they fit.
        LOCK.write_text(installed(project["name"]))
    words = ["--upgrade"] if options.upgrade else []
    sys.exit(subprocess.run([*command, *words], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
