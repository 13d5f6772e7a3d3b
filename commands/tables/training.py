"""The tables of what is chosen before a training, and of the trials of a search."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from commands.tables import table_text
from eval.report.trials import TrialRow

if TYPE_CHECKING:  # TensorFlow is imported inside the command that needs it
    from compress.run.advise import CandidateFile
    from distill.advice.duration import StepDuration
    from distill.advice.ranking import Candidate
    from distill.backbones.catalogue import BackboneRow


def backbones_table(rows: "list[BackboneRow]") -> str:
    """One line per backbone, and what the columns mean."""
    columns = [
        "backbone", "parameters (M)", "MACs (M)", "input", "smallest", "ImageNet weights here",
    ]  # fmt: skip
    cells = [
        [
            row.name,
            f"{row.num_parameters / 1e6:.1f}",
            "" if row.num_macs is None else f"{row.num_macs / 1e6:,.0f}",
            str(row.image_size),
            str(row.smallest_image),
            row.imagenet_here,
        ]
        for row in rows
    ]
    return table_text(columns, cells, left=(0, len(columns) - 1)) + (
        "\nParameters and MACs (multiply-accumulates of one image of the size in the column input) "
        "are those of a network with 1,000 classes.\nAny Keras model of yours is a backbone, too: "
        "{name: keras_file, weights: mine.keras}"
    )


def candidates_table(
    candidates: "Sequence[Candidate]", files: "Mapping[str, CandidateFile]"
) -> str:
    """Backbones by what their features are worth, and what their files cost."""
    columns = [
        "backbone", "px", "probe top-1", "at random", "LogME", "H-score", "LEEP", "p50 ms", "KB",
        "MMACs",
    ]  # fmt: skip
    cells = [
        [
            one.name, str(one.image_size), f"{100 * one.probe_top1:.1f}",
            f"{100 * one.random_probe_top1:.1f}", f"{one.logme:.3f}", f"{one.h_score:.2f}",
            f"{one.leep:.3f}" if one.leep is not None else "", f"{files[one.name].p50_ms:.2f}",
            f"{files[one.name].file_bytes / 1000:.0f}",
            f"{one.num_macs / 1e6:.0f}" if one.num_macs else "",
        ]
        for one in candidates
    ]  # fmt: skip
    return table_text(columns, cells)


def durations_table(steps: "Sequence[StepDuration]") -> str:
    """The estimated time of each training, and their sum."""
    from distill.advice.duration import time_text

    total = sum(step.seconds for step in steps)
    rows = [(step.step, step.seconds, step.how) for step in steps]
    rows.append(("all", total, "files and measurements come on top: some minutes"))
    cells = [[step, time_text(seconds), how] for step, seconds, how in rows]
    return table_text(["step", "estimate", "measured"], cells, left=(0, 2))


def trials_table(rows: list[TrialRow]) -> str:
    """The trials of a search; the best is marked with an asterisk."""
    columns = ["trial", *rows[0].settings, "top-1", "p50 ms", "KB", "file", "exceeds"]
    cells = [
        [
            f"{row.number}{' *' if row.chosen else ''}", *row.texts, f"{100 * row.top1:.1f}",
            f"{row.p50_ms:.2f}", f"{row.file_bytes / 1000:.0f}", row.file, row.why,
        ]
        for row in rows
    ]  # fmt: skip
    return table_text(columns, cells, left=(0, len(columns) - 2, len(columns) - 1))
