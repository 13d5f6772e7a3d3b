"""Hours, bytes, machines and money of a run on millions of photos, from rates measured here.

    python benchmarks/estimate.py photos_lite --set data.path=photos/ --price 1.50
    python benchmarks/estimate.py photos --set data.path=photos/ --save gpu.json    # measure once
    python benchmarks/estimate.py photos --rates gpu.json --hours 48 --price 2.00   # only compute
    python benchmarks/estimate.py photos --rates gpu.json --rate teacher.answer=0.0004

The photos of the TARGET are scanned and decoded, and its networks are updated a few times. Nothing
is trained to the end. The rates are then taken to ImageNet and to 100 million photos. --set NAME
takes them elsewhere. All assumptions are printed with the result.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.config_choices import REGISTRIES
from compress.run.execution import take
from configs.errors import UserError
from configs.loading.targets import open_config, open_run
from configs.records import from_json, to_json
from configs.schema import Experiment
from configs.schema.training import TeacherConfig
from distill.advice.duration import Pace, measure_pace, training_seconds
from distill.data.manifest import student_examples
from distill.data.pipelines import open_photo_store, student_views
from distill.labels.label_file import LabelFormat
from eval.devices.machine import this_machine
from eval.packed_photos import packed_photo
from eval.photo_files import decode_photo

HOUR = 3600
MAX_DECODED = 500
"""Photos that are decoded to measure the rate."""


@dataclass(frozen=True)
class Photos:
    """Photos that a run would be made of.

    Attributes:
        num_photos: training photos; those with labels and those without.
        num_labelled: those with labels; the teacher is trained on them.
        num_validation: looked at after every epoch.
    """

    name: str
    num_photos: int
    num_labelled: int
    num_validation: int
    num_classes: int


IMAGENET = Photos("ImageNet", 1_281_167, 1_281_167, 50_000, 1_000)
MANY = Photos("100 million photos", 100_000_000, 1_281_167, 50_000, 1_000)


@dataclass(frozen=True)
class Rates:
    """What one machine takes for one photo, in seconds.

    Attributes:
        scan: to open, check and split it.
        decode: to decode it, with all cores.
        teacher, student: of the networks.
        photo_bytes: the size of its file.
        measured_on: the machine and the photos, for people.
    """

    scan: float
    decode: float
    teacher: Pace
    student: Pace
    photo_bytes: float
    measured_on: str


@dataclass(frozen=True)
class Part:
    """What one step needs.

    Attributes:
        seconds: of one machine.
        is_shared: whether several machines can share it.
        num_bytes: what it reads or writes, on disk.
    """

    step: str
    seconds: float
    is_shared: bool
    num_bytes: float


@dataclass(frozen=True)
class Plan:
    """Machines that hold a limit of time.

    Attributes:
        num_machines: None if no number of machines is enough.
        hours: from the start to the end; None with them.
        machine_hours: that are paid.
        cost: in the currency of the price; None without a price.
    """

    num_machines: int | None
    hours: float | None
    machine_hours: float
    cost: float | None


def parts(photos: Photos, rates: Rates, experiment: Experiment) -> list[Part]:
    """The steps of a run on these photos, in their order, on one machine."""
    labels = experiment.soft_labels
    teacher, student = (_with_decoding(p, rates.decode) for p in (rates.teacher, rates.student))
    form = LabelFormat(photos.num_classes, labels.top_k)
    label_bytes = math.prod(form.shape(photos.num_photos, labels.num_views)) * form.dtype.itemsize
    per_view = teacher.answer + teacher.view
    once = training_seconds(experiment.student, student, photos.num_photos, photos.num_validation)
    config = experiment.student
    num_trained = config.seeds * (1 + config.control) + len(config.label_curve)
    name = "student and control" if config.control else "student"
    return [
        Part(
            "scan", photos.num_photos * rates.scan, False, photos.num_photos * rates.photo_bytes
        ),
        Part(
            "teacher",
            training_seconds(
                _of_teacher(experiment), teacher, photos.num_labelled, photos.num_validation
            ),
            True,
            0,
        ),
        Part("soft labels", photos.num_photos * labels.num_views * per_view, True, label_bytes),
        Part(name, num_trained * once, True, 0),
    ]  # fmt: skip


def plan(steps: list[Part], *, hours: float, price: float | None) -> Plan:
    """As few machines as finish the steps in so many hours.

    Args:
        price: of one machine for one hour.
    """
    alone = sum(p.seconds for p in steps if not p.is_shared) / HOUR
    shared = sum(p.seconds for p in steps if p.is_shared) / HOUR
    cost = None if price is None else (alone + shared) * price
    if alone >= hours:
        return Plan(None, None, alone + shared, cost)
    num_machines = max(math.ceil(shared / (hours - alone)), 1)
    return Plan(num_machines, alone + shared / num_machines, alone + shared, cost)


def _with_decoding(pace: Pace, decode: float) -> Pace:
    """A pace at which every view decodes its photo, because millions of photos are not kept."""
    return replace(pace, view=pace.view + decode)


def _of_teacher(experiment: Experiment) -> TeacherConfig:
    if not isinstance(experiment.teacher, TeacherConfig):
        raise UserError("the config names a teacher that exists. Name one that is trained.")
    return experiment.teacher


def measure(target: str, settings: list[str]) -> Rates:
    """Scan the photos of a TARGET, decode some, and update its networks a few times."""
    with tempfile.TemporaryDirectory() as folder:
        run, experiment = open_run(
            target, run=Path(folder, "run"), overrides=settings, registries=lambda: REGISTRIES
        )
        teacher_config = _of_teacher(experiment)
        begin = time.perf_counter()
        facts = take(run, experiment, ["data"], target=target).last
        num_seen = sum(facts[f"num_{split}"] for split in ("train", "validation", "test"))
        scan = (time.perf_counter() - begin) / (num_seen + facts["num_unlabelled"])
        paths = student_examples(run).some(MAX_DECODED).paths
        side = 2 * max(teacher_config.image_size, experiment.student.image_size)
        begin = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            shapes = list(pool.map(lambda path: decode_photo(path, side).shape, paths))
        decode = (time.perf_counter() - begin) / len(paths)
        with open_photo_store(run, experiment) as store:
            views = student_views(run, experiment, store)
            teacher = measure_pace(teacher_config, views)
            student = measure_pace(experiment.student, views)
        photo_bytes = statistics.mean(map(num_bytes_of, paths))
    machine = this_machine()
    height, width = (round(statistics.mean(sides)) for sides in list(zip(*shapes, strict=True))[:2])
    where = f"{machine.num_cores} cores ({machine.cpu}), {len(paths)} photos of {width} x {height}"
    return Rates(scan, decode, teacher, student, photo_bytes, where)


def num_bytes_of(path: Path) -> int:
    """The size of a photo, also of one inside a tar or a table."""
    packed = packed_photo(path)
    return path.stat().st_size if packed is None else len(packed.read())


def with_rate(rates: Rates, word: str) -> Rates:
    """The rates with one of them replaced, as in teacher.answer=0.0004."""
    name, _, value = word.partition("=")
    owner, _, field = name.rpartition(".")
    try:
        part: Any = getattr(rates, owner) if owner else rates
        getattr(part, field)
        changed = replace(part, **{field: float(value)})
    except (AttributeError, ValueError):
        raise UserError(
            f"--rate {word}: expected a rate of the file that --save writes, as in "
            "--rate teacher.answer=0.0004 (seconds a photo)."
        ) from None
    return replace(rates, **{owner: changed}) if owner else changed


def assumptions(rates: Rates, experiment: Experiment) -> list[str]:
    """What the numbers rest on."""
    teacher, student = _of_teacher(experiment), experiment.student
    return [
        f"measured on {rates.measured_on}, {rates.photo_bytes / 1e3:.1f} kB a photo: every machine "
        "is like that one, and all photos are like those",
        f"teacher {teacher.backbone.name} at {teacher.image_size} px, {teacher.epochs} epochs of "
        f"the labelled photos; student {student.backbone.name} at {student.image_size} px, "
        f"{student.epochs} epochs of all photos",
        "the scan runs on one machine, its time grows with the number of photos, and it looks for "
        "near-duplicates if the config does; it holds 0.6 kB of memory for each photo "
        "(docs/many-photos.md)",
        "every view decodes its photo anew: no decoded photo is kept",
        "photos are read as fast as they are decoded: storage and network are never waited for",
        "times of input and network are added, as where they share the cores; a GPU overlaps them",
        "machines that share a step lose no time to each other; multiply by the overhead that you "
        "measure (docs/from-laptop-to-cluster.md)",
        "files, their scores and their latencies come on top: minutes for a small student",
        "a machine is paid while it works; transfers and storage are not in the money",
    ]


def text_of(photos: Photos, steps: list[Part], chosen: Plan, hours: float) -> str:
    """A table for people."""
    lines = [
        f"{photos.name}: {photos.num_photos:,} photos, {photos.num_labelled:,} with labels, "
        f"{photos.num_classes:,} classes",
        f"  {'step':20} {'machine-hours':>14} {'GB':>12}",
    ]
    for part in steps:
        num_bytes = f"{part.num_bytes / 1e9:,.1f}" if part.num_bytes else ""
        note = "" if part.is_shared else "   one machine"
        lines.append(f"  {part.step:20} {part.seconds / HOUR:14,.1f} {num_bytes:>12}{note}")
    total_bytes = sum(part.num_bytes for part in steps)
    lines.append(f"  {'sum':20} {chosen.machine_hours:14,.1f} {total_bytes / 1e9:12,.1f}")
    cost = "" if chosen.cost is None else f", {chosen.cost:,.2f} in money"
    if chosen.num_machines is None:
        alone = sum(part.seconds for part in steps if not part.is_shared) / HOUR
        lines.append(
            f"  No number of machines does it in {hours:g} h: the scan alone takes "
            f"{alone:,.1f} h{cost}"
        )
    else:
        machines = "machine" if chosen.num_machines == 1 else "machines"
        lines.append(
            f"  In {hours:g} h: {chosen.num_machines:,} {machines}, which need "
            f"{chosen.hours:,.1f} h{cost}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="as of distill run: a config or a folder of photos")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rates", type=Path, help="take the rates that --save wrote")
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--save", type=Path, help="write the measured rates to this JSON file")
    parser.add_argument("--photos", type=int, help="estimate so many photos instead")
    parser.add_argument("--labelled", type=int, help="of them with labels; default: all")
    parser.add_argument("--classes", type=int, help="of them; default: 1000")
    parser.add_argument("--hours", type=float, default=24, help="to be finished in")
    parser.add_argument("--price", type=float, help="of one machine for one hour")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.photos is None and (options.labelled, options.classes) != (None, None):
        parser.error("--labelled and --classes describe --photos: give that as well")
    if not 0 < (options.labelled or 1) <= (options.photos or 1) or options.photos == 0:
        parser.error("expected --photos above 0, and --labelled from 1 to --photos")
    try:
        _print_estimate(options)
    except UserError as error:
        sys.exit(f"error: {error}")


def _print_estimate(options: argparse.Namespace) -> None:
    experiment = open_config(options.target, overrides=options.set, registries=lambda: REGISTRIES)
    if options.rates:
        rates = from_json(Rates, json.loads(options.rates.read_text()))
    else:
        rates = measure(options.target, options.set)
    for word in options.rate:
        rates = with_rate(rates, word)
    if options.save:
        options.save.write_text(json.dumps(to_json(rates), indent=2) + "\n")
    sets = [IMAGENET, MANY]
    if options.photos:
        num_labelled = options.labelled or options.photos
        num_classes = options.classes or IMAGENET.num_classes
        sets = [Photos("your photos", options.photos, num_labelled, 50_000, num_classes)]
    results = []
    for photos in sets:
        steps = parts(photos, rates, experiment)
        chosen = plan(steps, hours=options.hours, price=options.price)
        results.append({"photos": photos, "steps": steps, "plan": chosen})
        if not options.json:
            print(text_of(photos, steps, chosen, options.hours), end="\n\n")
    said = assumptions(rates, experiment)
    if options.json:
        print(json.dumps(to_json({"rates": rates, "estimates": results, "assumptions": said})))
    else:
        print("Assumptions:", *(f"- {line}." for line in said), sep="\n")


if __name__ == "__main__":
    main()
