"""Whether compression costs more on corrupted photos than on clean ones."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from configs.run_dir import RunDir
from eval.scoring.corruption.corruptions import STRENGTHS
from eval.scoring.corruption.photos import CorruptedPhotos
from eval.scoring.intervals import paired_bootstrap

HURTS_MORE: Final = "hurts more"
HURTS_LESS: Final = "hurts less"
NO_DIFFERENCE: Final = "no measurable difference"
Hurts = Literal["hurts more", "hurts less", "no measurable difference"]


@dataclass(frozen=True)
class ExtraDrop:
    """Drops of a file against its parent, on clean and corrupted photos, and their difference.

    Each has the ends of its 95 % interval over the photos. A positive drop is lost accuracy.
    """

    clean_drop: float
    clean_drop_low: float
    clean_drop_high: float
    corrupted_drop: float
    corrupted_drop_low: float
    corrupted_drop_high: float
    extra_drop: float
    extra_drop_low: float
    extra_drop_high: float
    verdict: Hurts


@dataclass(frozen=True)
class RobustnessRow:
    """One model or file on clean and on corrupted photos; its drops are keys of the same object.

    Attributes:
        parent: the model that compression made it from; None for a model that was trained.
        corrupted_top1: the mean of all kinds and strengths.
        top1: by kind, then by strength.
        drops: None without a parent.
    """

    name: str
    parent: Annotated[str | None, Field(alias="source")]
    clean_top1: float
    corrupted_top1: float
    top1: dict[str, list[float]]
    drops: ExtraDrop | None

    @model_serializer(mode="wrap")
    def _as_one_object(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        drops = values.pop("drops") or {}
        return {**values, **drops}


@dataclass(frozen=True)
class Robustness:
    """Models and files on corrupted photos: `robustness` of report.json.

    Attributes:
        sentence: the result for the file that ships, for people; None where there is none.
    """

    num_photos: int
    kinds: list[str]
    num_strengths: int
    rows: list[RobustnessRow]
    sentence: str | None


def robustness(
    run: RunDir,
    photos: CorruptedPhotos,
    *,
    clean: dict[str, np.ndarray],
    parents: dict[str, str | None],
    shipped: str | None,
) -> Robustness:
    """Compares each model and file with its parent, on clean and on corrupted photos.

    Args:
        clean: probabilities on the test photos (examples, classes), by name.
        parents: the model that compression made each from; None for a model that was trained.
        shipped: the name of the file that ships, which the sentence is about.
    """
    labels = photos.labels
    clean_right = {
        name: probs[: len(labels)].argmax(axis=1) == labels for name, probs in clean.items()
    }
    corrupted_right = {
        name: np.load(run.corrupted_answers(name)) == labels[:, None, None] for name in clean
    }
    rows = []
    for name, parent in parents.items():
        drops = None
        if parent is not None:
            clean_drops = clean_right[parent].astype(float) - clean_right[name]
            corrupted_drops = corrupted_right[parent].astype(float) - corrupted_right[name]
            drops = extra_drop(clean_drops, corrupted_drops.mean(axis=(1, 2)))
        by_kind = corrupted_right[name].mean(axis=0).tolist()
        row = RobustnessRow(
            name=name,
            parent=parent,
            clean_top1=float(clean_right[name].mean()),
            corrupted_top1=float(corrupted_right[name].mean()),
            top1=dict(zip(photos.kinds, by_kind, strict=True)),
            drops=drops,
        )
        rows.append(row)
    sentence = next((robustness_sentence(row) for row in rows if row.name == shipped), None)
    return Robustness(len(labels), photos.kinds, len(STRENGTHS), rows, sentence)


def robustness_sentence(row: RobustnessRow) -> str | None:
    """The drops of a row for people; None without a parent."""
    drops = row.drops
    if drops is None:
        return None
    results = {
        HURTS_MORE: "Compression costs more on corrupted photos than on clean ones",
        HURTS_LESS: "Compression costs less on corrupted photos than on clean ones",
        NO_DIFFERENCE: "Compression costs about the same on corrupted photos as on clean ones",
    }
    return (
        f"{results[drops.verdict]}: against {row.parent}, {row.name} loses "
        f"{100 * drops.clean_drop:.1f} points on the clean photos and "
        f"{100 * drops.corrupted_drop:.1f} on the corrupted ones, a difference of "
        f"{100 * drops.extra_drop:+.1f} (95 %: {100 * drops.extra_drop_low:+.1f} to "
        f"{100 * drops.extra_drop_high:+.1f})."
    )


def extra_drop(clean: np.ndarray, corrupted: np.ndarray) -> ExtraDrop:
    """How much larger the drops on corrupted photos are than on clean ones.

    Args:
        clean: by how much the parent is right more often on each photo, (photos,).
        corrupted: the same under corruption, the mean of all kinds and strengths.
    """
    (clean_low, clean_high), (corrupted_low, corrupted_high), (low, high) = (
        paired_bootstrap(drops[None]) for drops in (clean, corrupted, corrupted - clean)
    )
    verdict: Hurts = HURTS_MORE if low > 0 else HURTS_LESS if high < 0 else NO_DIFFERENCE
    return ExtraDrop(
        clean_drop=float(clean.mean()),
        clean_drop_low=clean_low,
        clean_drop_high=clean_high,
        corrupted_drop=float(corrupted.mean()),
        corrupted_drop_low=corrupted_low,
        corrupted_drop_high=corrupted_high,
        extra_drop=float((corrupted - clean).mean()),
        extra_drop_low=low,
        extra_drop_high=high,
        verdict=verdict,
    )
