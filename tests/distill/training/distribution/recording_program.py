"""The tiny programs, which also write the loss of every update into a file.

python recording_program.py FILE PROGRAM ARGUMENTS
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "faults"))

import tiny_program

from distill.training.epochs import EpochKeeper

RECORD = Path(sys.argv.pop(1))
count = EpochKeeper.on_train_batch_end


def count_and_record(self, batch, logs=None):
    # Keras returns the mean of the updates of an epoch so far.
    with open(RECORD, "a") as file:
        print(self.state.epoch, batch, float(logs["loss"]), file=file)
    count(self, batch, logs)


EpochKeeper.on_train_batch_end = count_and_record

if __name__ == "__main__":
    program = sys.argv.pop(1)
    sys.argv[0] = program
    getattr(tiny_program.cli, program)()
