"""The state of a training at the end of an epoch, in one file that is whole or absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs.artifacts import whole_file


def save_checkpoint(path: Path, state: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
    """Write `state` (JSON values) and lists of arrays by name."""
    flat = {f"{name}/{i}": array for name, some in arrays.items() for i, array in enumerate(some)}
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, state=np.array(json.dumps(state)), **flat)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]] | None:
    """What `save_checkpoint` wrote, or None where there is nothing."""
    if not path.exists():
        return None
    with np.load(path) as stored:
        state = json.loads(str(stored["state"]))
        arrays: dict[str, list[np.ndarray]] = {}
        for key in stored.files:
            if "/" in key:  # in the order they were written
                arrays.setdefault(key.split("/")[0], []).append(stored[key])
    return state, arrays
