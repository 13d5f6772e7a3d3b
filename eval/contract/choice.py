"""What the user says of the contract of a model, and the contract of a file that follows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from configs.contract import InputContract, Statement
from configs.errors import UserError
from eval.contract.file_contract import file_contract, open_under
from eval.contract.foreign_metadata import natural_order
from eval.devices.probe import ModelFileError
from eval.metadata import FileMetadata
from eval.scoring.class_counts import number_of_classes

NO_STATEMENT = Statement()


@dataclass(frozen=True)
class ContractChoice:
    """What the user says of the contract of a model.

    Attributes:
        statement: what the options say.
        automatic: whether a better contract is taken (`--contract auto`) or only reported.
        order: the labels are the folders of the photos in this order.
    """

    statement: Statement = NO_STATEMENT
    automatic: bool = False
    order: Literal["alphabetical", "natural"] | None = None

    def of_classes(self, classes: Sequence[str]) -> Statement:
        """The statement, with the classes of the photos in the order that was asked for.

        Raises:
            UserError: there are no classes to put in order.
        """
        if self.order is None:
            return self.statement
        if not classes:
            raise UserError(
                f"--labels {self.order} puts the class folders of --data in order, and there are "
                "none. Give a file with one label on each line."
            )
        labels = sorted(classes) if self.order == "alphabetical" else natural_order(classes)
        return replace(self.statement, labels=tuple(labels))


NO_CHOICE = ContractChoice()


def contract_of(
    file: Path,
    metadata: FileMetadata | None,
    choice: ContractChoice,
    classes: Sequence[str] = (),
) -> InputContract:
    """What a file expects, before it is tried.

    Args:
        metadata: our own, of the file.
        classes: of the photos.
    """
    try:
        model = open_under(file, choice.statement)
    except ModelFileError as error:
        if choice.statement.layout is None:
            raise
        raise UserError(
            f"--layout {choice.statement.layout} does not fit {file}: {error}. Leave --layout out."
        ) from None
    contract = file_contract(
        file,
        metadata,
        num_channels=model.input_shape[2],
        num_classes=model.num_classes,
        answers=model.answers,
        options=choice.of_classes(classes),
    )
    check_edges(contract, model.input_shape[2], model.num_classes, file)
    return contract


def check_edges(contract: InputContract, num_channels: int, num_outputs: int, path: Path) -> None:
    """Raise UserError if a contract cannot be that of a model with these edges."""
    is_grey = contract.channels == "grey"
    if is_grey != (num_channels == 1):
        raise UserError(
            f"{path} takes {num_channels} channel{'s' if num_channels > 1 else ''}, and "
            f"{contract.channels} does not fit that. Leave --channels out. --pixels caffe says "
            "bgr, too: for a grey model, type --mean and --std with one number each."
        )
    if is_grey and (len(set(contract.pixels.mean)) > 1 or len(set(contract.pixels.std)) > 1):
        pixels = contract.pixels
        raise UserError(
            f"{path} takes grey photos, and {pixels.name} has three numbers for three colours. "
            f"Type one number for each, as in\n  --mean {pixels.mean[0]:g} --std {pixels.std[0]:g}"
        )
    num_classes = number_of_classes(num_outputs)
    if contract.labels and len(contract.labels) != num_classes:
        by = contract.stated_by.get("labels")
        given = "--labels gives" if by == "options" else f"its {by} gives"
        raise UserError(
            f"{path} answers with {num_classes} classes, and {given} {len(contract.labels)} "
            "labels. Expected one label for each class, in the order of the answers. Write them "
            "into a file, one on a line: --labels FILE."
        )
