"""Walk over the backbones: build, learn, save, load and export every family, and count the others.

Of each family the smallest network and the largest up to 100 million parameters are taken through
every step at their smallest legal input. Each network runs in a process of its own and adds one
line to the file of results, so a walk that was stopped goes on where it was.

    python benchmarks/backbone_walk.py walk.jsonl            # all of it
    python benchmarks/backbone_walk.py walk.jsonl --table    # the results as a table of Markdown
    python benchmarks/backbone_walk.py --catalogue           # count all, and write catalogue.json
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

MAX_PARAMETERS = 100e6
NUM_CLASSES = 3
NUM_IMAGES = 8
# A network with random weights amplifies every rounding. After some updates, int8 can be compared.
NUM_UPDATES = 40
FILES = ("tflite.float32", "tflite.int8", "onnx.float32", "onnx.int8")
TIMEOUT_SECONDS = 3600


def chosen() -> list[tuple[str, bool]]:
    """Every backbone, and whether it takes all steps; those come first, the small ones first."""
    from distill.backbones import BACKBONES
    from distill.backbones.catalogue import backbone_rows

    rows = sorted(backbone_rows(), key=lambda row: row.num_parameters)
    families: dict[str, list[str]] = {}
    for row in rows:
        if row.num_parameters <= MAX_PARAMETERS:
            families.setdefault(BACKBONES.facts(row.name)["family"], []).append(row.name)
    ends = {name for names in families.values() for name in (names[0], names[-1])}
    return sorted(((row.name, row.name in ends) for row in rows), key=lambda item: not item[1])


def walk(name: str, every_step: bool) -> dict[str, object]:
    """What one backbone does in every step, as far as it gets.

    Learning and each export have a process of their own, as in a pipeline: nothing adds up.
    """
    if not every_step:
        return counted(name)
    path = Path(f"{name}.keras")
    result = _alone(learned, name, path)
    if isinstance(result, str):
        raise SystemExit(f"learning: {result}")
    for recipe in FILES:
        result[recipe] = _alone(exported, path, recipe)
    path.unlink()
    return result


def _alone(step: Callable[..., dict], *args: object) -> dict[str, object] | str:
    """What a step returns in a process of its own, or why it returned nothing."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned, max_tasks_per_child=1) as pool:
        try:
            return pool.submit(step, *args).result()
        except BrokenProcessPool:
            return "FAILED: killed"


def counted(name: str) -> dict[str, object]:
    """The size of a backbone."""
    from distill.backbones import BACKBONES
    from distill.backbones.catalogue import counts_of

    facts, counts = BACKBONES.facts(name), counts_of(name)
    return {
        "name": name, "family": facts["family"], "image_size": facts["smallest_image"],
        "num_parameters": counts.num_parameters, "num_macs": counts.num_macs,
    }  # fmt: skip


def learned(name: str, path: Path) -> dict[str, object]:
    """A network that has learned a few photos is written to `path`: how well it learned them."""
    import keras
    import numpy as np

    from distill.backbones import BACKBONES

    result = counted(name)
    size = BACKBONES.facts(name)["smallest_image"]
    keras.utils.set_random_seed(1)
    start = time.monotonic()
    model = BACKBONES[name](image_size=size, num_classes=NUM_CLASSES, weights=None)
    result["build_s"] = round(time.monotonic() - start, 1)
    images = patches(size)
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    norms = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
    is_normalized = any(isinstance(layer, norms) for layer in model.layers)
    # VGG learns nothing with the larger rate.
    model.compile(keras.optimizers.Adam(1e-3 if is_normalized else 1e-4), loss)
    losses = [float(model.train_on_batch(images, labels)) for _ in range(NUM_UPDATES)]
    result |= {"first_loss": round(losses[0], 3), "last_loss": round(losses[-1], 3)}
    settle(model, images)
    result["accuracy"] = float(
        (np.asarray(model(images, training=False)).argmax(axis=1) == labels).mean()
    )
    if result["accuracy"] < 1:
        make_sure(model, images)
    logits = np.asarray(model(images, training=False))
    result["spread"] = float(np.std(logits, axis=0).mean())
    keras.Model(model.inputs, model.outputs).save(path)
    again = keras.saving.load_model(path, compile=False)
    result["reload"] = float(np.abs(np.asarray(again(images, training=False)) - logits).max())
    return result | {"peak_gb": peak_gb()}


def peak_gb() -> float:
    """The most memory that this process has held, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def patches(size: int):
    """Photos of large patches of one colour."""
    import numpy as np

    rng = np.random.default_rng(1)
    cells = rng.uniform(0, 255, (NUM_IMAGES, 8, 8, 3)).astype("float32")
    repeats = -(-size // 8)
    return cells.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size]


def settle(model, images) -> None:
    """Give BatchNormalization the statistics of the photos, with every dropout switched off."""
    import keras

    switched_off = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    rates = [layer.rate for layer in switched_off]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for layer in switched_off:
        layer.rate = 0.0
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for layer, rate in zip(switched_off, rates, strict=True):
        layer.rate = rate


def make_sure(model, images) -> None:
    """Give a network that has not learned the photos a head with answers that differ."""
    import keras
    import numpy as np

    head = model.get_layer("logits")
    features = np.asarray(keras.Model(model.input, head.input)(images, training=False))
    centred = features - features.mean(axis=0)
    kernel = np.random.default_rng(2).normal(size=head.kernel.shape)
    spread = (centred @ kernel).std() or 1.0
    kernel = 2 * kernel / spread
    head.set_weights(
        [kernel.astype("float32"), -(features.mean(axis=0) @ kernel).astype("float32")]
    )


def exported(model_path: Path, recipe: str) -> dict[str, object] | str:
    """One file: its size, the time to write it, and how far its answers are from the model's."""
    import keras
    import numpy as np

    from compress.recipes import RECIPES
    from compress.recipes.conversion import Conversion
    from configs.errors import UserError
    from eval.devices.probe import open_model

    model = keras.saving.load_model(model_path, compile=False)
    images = patches(model.input_shape[1])
    path = Path(f"file.{recipe.split('.')[0]}")
    start = time.monotonic()
    try:
        RECIPES[recipe](Conversion(model, lambda: iter(images)), path, output="probabilities")
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:  # what the product should have refused by name
        return f"FAILED: {type(error).__name__}: {error}"[:500]
    seconds = time.monotonic() - start
    logits = np.asarray(model(images, training=False))
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    answers = open_model(path).predict(images)
    num_bytes = path.stat().st_size
    path.unlink()
    return {
        "max_diff": float(np.abs(answers - expected).max()),
        "correlation": round(float(np.corrcoef(answers.ravel(), expected.ravel())[0, 1]), 4),
        "same": float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "mb": round(num_bytes / 1e6, 2),
        "seconds": round(seconds, 1),
        "peak_gb": peak_gb(),
    }


def run_all(path: Path) -> None:
    done = (
        {json.loads(line)["name"] for line in path.read_text().splitlines()}
        if path.exists()
        else set()
    )
    for name, every_step in chosen():
        if name in done:
            continue
        command = [sys.executable, __file__, str(path.resolve()), "--one", name]
        command += ["--all-steps"] if every_step else []
        start = time.monotonic()
        try:
            process = subprocess.run(
                command,
                cwd=path.resolve().parent,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
            failure = (process.stderr.strip().splitlines() or ["no message"])[-1]
            failure = f"exit code {process.returncode}: {failure}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"no result in {TIMEOUT_SECONDS} s"
        if failure:
            with open(path, "a") as file:
                file.write(json.dumps({"name": name, "failure": failure[:500]}) + "\n")
        print(name, f"{time.monotonic() - start:.0f} s", failure, flush=True)


def table(path: Path) -> str:
    """The results as a table of Markdown."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        "| backbone | input | parameters (M) | saved and loaded | TFLite float | TFLite int8 "
        "| ONNX float | ONNX int8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if FILES[0] in row:
            cells = [_cell(recipe, row[recipe]) for recipe in FILES]
            lines.append(
                f"| `{row['name']}` | {row['image_size']} | {row['num_parameters'] / 1e6:.1f} "
                f"| {row['reload']:.0e} | {' | '.join(cells)} |"
            )
        elif "failure" in row:
            lines.append(f"| `{row['name']}` | | | {row['failure']} | | | | |")
    return "\n".join(lines)


def _cell(recipe: str, result) -> str:
    if isinstance(result, str):
        return result.split("\n")[0]
    if "float" in recipe:
        return f"{result['max_diff']:.0e}"
    return f"{result['mb']:.1f} MB, {result['correlation']:.2f}"


def write_catalogue() -> None:
    """Count every backbone, and write the counts beside the addresses of its weights."""
    import keras

    from distill.backbones import BACKBONES
    from distill.backbones.catalogue import counts_of
    from distill.backbones.weights.published import CATALOGUE

    known = json.loads(CATALOGUE.read_text())
    for name in BACKBONES.names():
        if not BACKBONES.facts(name).get("image_size"):
            continue
        counts = counts_of(name)
        keras.backend.clear_session()
        row = known.get(name, {})
        known[name] = {
            "num_parameters": counts.num_parameters,
            "num_macs": counts.num_macs,
            "imagenet": row.get("imagenet", {}),
        }
        print(name, counts, flush=True)
        CATALOGUE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--table", action="store_true", help="print the results as a table")
    parser.add_argument(
        "--catalogue", action="store_true", help="count all and write catalogue.json"
    )
    parser.add_argument("--one", help="walk one backbone (the walk starts this for each)")
    parser.add_argument("--all-steps", action="store_true", help="with --one: not only count")
    arguments = parser.parse_args()
    if arguments.catalogue:
        write_catalogue()
    elif arguments.results is None:
        parser.error("name the file of results")
    elif arguments.table:
        print(table(arguments.results))
    elif arguments.one:
        line = json.dumps(walk(arguments.one, arguments.all_steps))
        with open(arguments.results, "a") as file:
            file.write(line + "\n")
    else:
        run_all(arguments.results)


if __name__ == "__main__":
    main()
