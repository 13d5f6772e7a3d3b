"""The files of one model that comes without a run: written, asked about photos, and scored."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.foreign.contracts import matched
from compress.graph.classifier import image_size_of
from compress.graph.inference import weights_sha256
from compress.int8.calibration import Images, calibration_photos
from compress.recipes.conversion import Conversion
from compress.recipes.write import write_file
from configs.artifacts import digest, file_sha256, path_sha256
from configs.contract import InputContract
from configs.records import from_json
from configs.resume import Built, Workspace, take_file_step
from configs.schema.choice import Choice
from configs.schema.files import LeastRuntime
from distill.data.manifest import Examples
from distill.trained.answers import model_probabilities
from eval.choice.drop import agreement_of
from eval.needs import Runtime
from eval.scoring.file_rows import FileRow, References, file_row
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency

log = logging.getLogger("potstill")

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
NUM_TO_CALIBRATE = 512
"""How many training photos calibrate at most. No recipe takes more than some hundred by default."""


class ModelFiles:
    """One model, the photos that it is measured on, and the folder of its files.

    Attributes:
        model: takes raw pixels.
        came_as: its contract when it came; `contract` is that of its files.
        classes: their names in the order of the answers.
        to_calibrate: training photos, with the model's own answers as labels. So the classes take
            turns in calibration, and photos without labels give the same file.
        photos: of the validation and test splits; empty without photos.
        probs: of the model about them.
    """

    def __init__(
        self,
        path: Path,
        model: Any,
        splits: dict[str, Examples] | None,
        contract: InputContract,
        folder: Path,
        least_runtime: LeastRuntime,
        imports: Sequence[Path] = (),
    ) -> None:
        num_classes = max(model.output_shape[-1], 2)  # a single score separates two classes
        # A SavedModel is a folder, and its name may have a dot in it.
        self.name = path.name if path.is_dir() else path.stem
        self.model, self.folder, self.least_runtime = model, folder, least_runtime
        self.came_as, self.contract = contract, contract.behind_the_door()
        parts = splits or {}
        if splits and splits["train"].classes:
            parts = {
                split: matched(examples, contract.labels, num_classes, path)
                for split, examples in splits.items()
            }
            self.classes = parts["train"].classes
        else:
            self.classes = list(contract.labels or map(str, range(num_classes)))
        self.has_names = bool(contract.labels or (splits and splits["train"].classes))
        if not self.has_names:
            log.warning(
                "the names of the %d classes of %s are not known, so its files number them from 0. "
                "Name them with --labels labels.txt, one name on each line.",
                num_classes, path.name,
            )  # fmt: skip
        self.photos: dict[Split, Photos] = {
            split: Photos(split, parts[split].paths, parts[split].labels)
            for split in SPLITS
            if split in parts
        }
        asked: dict[str, Examples] = {split: parts[split] for split in self.photos}
        if parts:
            asked["calibration"] = _first(parts["train"], NUM_TO_CALIBRATE)
        probs = model_probabilities(model, asked, name=self.name, contract=self.contract)
        self.probs = {split: probs[split] for split in self.photos}
        self.to_calibrate = None
        if parts:
            answers = probs["calibration"].argmax(axis=1).astype("int32")
            self.to_calibrate = replace(asked["calibration"], labels=answers, classes=self.classes)
        self.inputs = {
            "model": path_sha256(path),
            "photos": digest([self.to_calibrate.ids if self.to_calibrate else [], self.classes]),
            "contract": contract.describe(),
        }
        if imports:
            self.inputs["imports"] = digest([file_sha256(file) for file in imports])

    def calibration(self) -> Images:
        """Starts an iterator of the calibration photos; without photos it is empty."""
        if self.to_calibrate is None:
            return lambda: iter(())
        return calibration_photos(self.to_calibrate, image_size_of(self.model), self.contract)

    def write(
        self, conversion: Conversion, file: Path, choice: Choice, parent: str
    ) -> dict[str, Any]:
        """Write one file and its manifest; returns what the manifest says.

        Args:
            parent: the name of the model: the given one, or what was made from it.
        """
        inputs = {
            **self.inputs,
            "source": parent,
            "weights": weights_sha256(conversion.model),
            "recipe": choice.model_dump(mode="json"),
        }
        if self.least_runtime.tflite:
            inputs["least_runtime"] = self.least_runtime.tflite

        def build(workspace: Workspace) -> Built:
            facts = write_file(
                conversion,
                file,
                choice,
                parent=parent,
                classes=self.classes,
                has_names=self.has_names,
                contract=self.came_as,
                least_runtime=self.least_runtime,
            )
            return [file], facts

        return take_file_step(file, inputs, build)

    def answers(self, file: Path, split: Split) -> np.ndarray:
        """Probabilities of one file on the photos of a split."""
        contract = self.came_as.of_written_files()
        return file_probabilities(file, self.photos[split], num_threads=1, contract=contract)

    def row(self, file: Path, facts: dict[str, Any], latency: Latency) -> FileRow:
        """The row of one file, scored on the test photos as far as there are any."""
        photos, own = self.photos.get("test"), self.probs.get("test")
        probs = self.answers(file, "test") if photos else None
        agreement = None
        if photos and not photos.is_labelled and probs is not None and own is not None:
            agreement = agreement_of(probs, own)
        return file_row(
            file,
            recipe=facts["recipe"],
            parent=facts["source"],
            probs=probs,
            photos=photos,
            references=References(parent=own, student=own),
            latency=[latency],
            known_zip_bytes=facts.get("zip_bytes"),
            runtime=from_json(Runtime, facts["runtime"]) if "runtime" in facts else None,
            agreement=agreement,
        )


def _first(examples: Examples, count: int) -> Examples:
    return replace(
        examples,
        ids=examples.ids[:count],
        paths=examples.paths[:count],
        labels=examples.labels[:count],
    )
