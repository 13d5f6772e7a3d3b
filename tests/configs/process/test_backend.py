import os

import pytest

from configs.process.backend import VARIABLE, check_backend

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


@pytest.mark.parametrize(
    ("backend", "chosen", "value"),
    [("jax", None, "false"), ("jax", "true", "true"), ("tensorflow", None, None)],
)
def test_jax_leaves_memory_of_the_gpu_to_a_child_process(
    backend: str, chosen: str | None, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    monkeypatch.setenv(PREALLOCATE, chosen or "")  # so that it is undone
    if chosen is None:
        monkeypatch.delenv(PREALLOCATE)
    check_backend()
    assert os.environ.get(PREALLOCATE) == value
