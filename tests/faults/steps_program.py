"""Three steps without TensorFlow, which start at once: python steps_program.py FOLDER.

Each writes ten parts, one after the other, and then one file of them all.
"""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.artifacts import whole_file
from configs.resume import Built, Step, Workspace, take_step

NAMES = ("first", "second", "third")
NUM_PARTS = 10
PART_BYTES = 20_000


def step_of(folder: Path, name: str) -> Step:
    """The step of this name."""
    target = folder / name / "whole.txt"

    def build(workspace: Workspace) -> Built:
        # The order of a step is drawn once, as a measured choice is.
        order = workspace.once("order", lambda: random.sample(range(NUM_PARTS), NUM_PARTS))
        for number in order:
            part = workspace.file(f"{number}.txt")
            if not part.exists():
                with whole_file(part) as unfinished:
                    unfinished.write_text(str(number) * PART_BYTES)
                time.sleep(0.01)
        with whole_file(target) as unfinished, open(unfinished, "w") as file:
            for number in range(NUM_PARTS):
                file.write(workspace.file(f"{number}.txt").read_text())
        return [target], {"name": name}

    return Step(name, target.with_name("manifest.json"), {"name": name}, build)


if __name__ == "__main__":
    print("begins", flush=True)
    for name in NAMES:
        take_step(step_of(Path(sys.argv[1]), name))
