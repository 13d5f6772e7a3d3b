"""Curves and tables as TensorBoard's event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.run_dir import RunDir
from distill.trackers import TRACKERS, Row, Tracker


@TRACKERS.add(package="tensorboard")
def tensorboard(*, run: RunDir, identity: str) -> Tracker:
    """Event files in `trackers/tensorboard` of the run: `tensorboard --logdir runs/`."""
    return _EventFiles(run.path / "trackers" / "tensorboard")


class _EventFiles:
    """One folder for each model, so that TensorBoard draws their curves into one chart."""

    def __init__(self, folder: Path) -> None:
        import tensorflow

        self.summary = tensorflow.summary
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def _writer(self, name: str) -> Any:
        if name not in self.writers:
            self.writers[name] = self.summary.create_file_writer(str(self.folder / name))
        return self.writers[name]

    def log_config(self, values: Mapping[str, Any]) -> None:
        with self._writer("run").as_default():
            self.summary.text("config", _table([{"key": k, "value": values[k]} for k in values]), 0)

    def log_epoch(self, model: str, epoch: int, values: Mapping[str, float]) -> None:
        with self._writer(model).as_default():
            for name, value in values.items():
                self.summary.scalar(name, value, step=epoch)

    def log_report(self, rows: Sequence[Row], files: Sequence[Path]) -> None:
        with self._writer("run").as_default():
            self.summary.text("report", _table(rows), 0)
            # Event files hold no other files.
            self.summary.text("files", "\n".join(f"- {path}" for path in files), 0)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


def _table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, which TensorBoard shows as one."""
    columns = list(rows[0]) if rows else []
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
