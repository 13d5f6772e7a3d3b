"""The OpenAPI description, tried by schemathesis: requests that it allows and that it forbids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from running_service import Service

HOOKS = """
import io
import random

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def photo(numbers):
    width, height, seed, kind = numbers
    pixels = random.Random(seed).randbytes(3 * width * height)
    stream = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(stream, kind)
    return stream.getvalue()


sizes = st.integers(1, 64)
kinds = st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"])
photos = st.tuples(sizes, sizes, st.integers(0, 99), kinds).map(photo)
schemathesis.openapi.format("binary", photos)
schemathesis.openapi.media_type("application/octet-stream", photos)
"""


CONFIG = """
[checks.positive_data_acceptance]
# A schema cannot say which bytes are a photo (415, 422).
expected-statuses = ["2xx", "404", "415", "422"]
"""


@pytest.mark.slow
def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    result = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}openapi.json",
            "--max-examples", "100", "--generation-deterministic", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
