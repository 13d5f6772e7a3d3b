"""What Potstill makes of models and files of other tools: right, warned, refused, or wrong.

    python benchmarks/foreign_files.py

The program makes about fifty models and files itself and needs no data. Each one is given to
Potstill twice: without any option, and with `--contract auto` if the first was not right. Keras
models go through `compress quantize --recipe float32`, files through `evaluate accuracy`. An
outcome is right if top-1 and the negative log-likelihood on the test photos are those of the model
itself: of `predict` in Keras, and of LiteRT for a file of int8.

The program ends with exit code 1 if an outcome is WRONG: measured otherwise, and not a word.
"""

import argparse
import contextlib
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from foreign_inputs import Foreign, Workshop
from foreign_kinds import kinds

from compress import standalone
from compress.bare_files import score_files
from configs.errors import StepFailed, UserError
from eval.contract.choice import ContractChoice

RIGHT, WARNED, REFUSED, WRONG = "right", "warned", "refused", "WRONG"
OTHER = "another contract"
"""What `--contract auto` took is good, but is not what the model was trained with."""
MAX_NLL_DIFFERENCE = 0.02
"""Rounding to float16 or bfloat16 changes a likelihood by less, a second softmax by more."""
NUM_QUOTED = 90


@contextlib.contextmanager
def warnings_of_potstill() -> Iterator[list[str]]:
    """The warnings that Potstill logs meanwhile."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("potstill")
    log.addHandler(handler)
    propagates, log.propagate = log.propagate, False
    try:
        yield messages
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


def measured(item: Foreign, choice: ContractChoice) -> tuple[float, float]:
    """Top-1 and negative log-likelihood, as a user of Potstill would measure them."""
    if item.library in ("TFLite", "ONNX"):
        (row,) = score_files([item.path], data=item.data, choice=choice)
    else:
        with tempfile.TemporaryDirectory() as out:
            (row,) = standalone.quantize_model(
                item.path,
                data=item.data,
                recipes=["float32"],
                out=Path(out),
                budget=None,
                contract=choice,
                imports=item.imports,
                allow_lambda=item.allow_lambda,
            ).rows
    return row["accuracy"]["top1"], row["accuracy"]["nll"]


def own_numbers(item: Foreign) -> tuple[float, float]:
    """Top-1 and negative log-likelihood of the model itself; nan where nothing can be measured."""
    if item.expected is None:
        return float("nan"), float("nan")
    num, num_classes = item.expected.shape
    labels = np.repeat(np.arange(num_classes), num // num_classes)
    own = item.expected[np.arange(num), labels]
    top1 = (item.expected.argmax(axis=1) == labels).mean()
    return float(top1), float(-np.log(np.maximum(own, 1e-7)).mean())


def outcome(item: Foreign, choice: ContractChoice) -> tuple[str, str]:
    """The word for what became of it, and what was said."""
    with warnings_of_potstill() as messages:
        try:
            top1, nll = measured(item, choice)
        except (UserError, StepFailed) as error:
            return REFUSED, quoted(item, str(error))
        except Exception as error:  # an error of a library is the finding
            return WRONG, f"{type(error).__name__}: {quoted(item, str(error))}"
    options = sorted(
        set(re.findall(r"Type (--\w+(?: [^-\s]\S*| -1\S*)?)(?= instead)", " ".join(messages)))
    )
    options = options or sorted(set(re.findall(r"--(?:labels|pixels|fit)", " ".join(messages))))
    own_top1, own_nll = own_numbers(item)
    if abs(top1 - own_top1) < 1e-6 and abs(nll - own_nll) < MAX_NLL_DIFFERENCE:
        return RIGHT, f"but warned: {messages[0][:NUM_QUOTED]}" if messages else ""
    if options:
        return WARNED, ", ".join(f"`{option}`" for option in options)
    numbers = f"top-1 {top1:.3f}, NLL {nll:.3f}; the model's own {own_top1:.3f}, {own_nll:.3f}"
    return OTHER if choice.automatic else WRONG, numbers


def quoted(item: Foreign, message: str) -> str:
    """The beginning of a message without the folder."""
    text = " ".join(message.replace(f"{item.path.parent}{os.sep}", "").split())
    return f"“{text[:NUM_QUOTED]}{'...' if len(text) > NUM_QUOTED else ''}”"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    args = parser.parse_args()
    standalone.NUM_RUNS = 10  # the latency is not looked at
    counts: Counter[str] = Counter()
    print("| kind | library | without an option | with `--contract auto` |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for item in kinds(Workshop(Path(folder))):
            if args.only not in item.kind:
                continue
            word, message = outcome(item, ContractChoice())
            cells = [f"{word}: {message}" if message else word]
            if word in (WARNED, WRONG):
                again = outcome(item, ContractChoice(automatic=True))
                cells.append(": ".join(filter(None, again)))
            else:
                cells.append("")
            counts[word] += 1
            print(f"| {item.kind} | {item.library} | {cells[0]} | {cells[1]} |", flush=True)
    print("\n" + ", ".join(f"{number} {word}" for word, number in counts.most_common()))
    raise SystemExit(bool(counts[WRONG]))


if __name__ == "__main__":
    main()
