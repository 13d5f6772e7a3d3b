"""A folder of photos as a source, and a folder of photos without labels."""

from pathlib import Path

from configs.errors import UserError
from distill.data.sources.folders import EXAMPLE, files_below, read_layout
from distill.data.sources.listing import SOURCES, ListedFile, Listing, Place

EXPECTED_FOLDER = "Expected a folder with one folder per class."


@SOURCES.add
def folder(place: Place) -> Listing:
    """A folder with one folder per class, or with split folders of them."""
    path = place.path
    if path is None:
        raise UserError("data.path is not set. Name the folder of photos: --set data.path=FOLDER")
    if not path.exists():
        raise UserError(f"{path} does not exist. {EXPECTED_FOLDER}")
    if not path.is_dir():
        raise UserError(
            f"{path} is a file. {EXPECTED_FOLDER[:-1]}, or a file with photos: .zip, .tar, .csv, "
            ".parquet, .npz, or .json with COCO annotations."
        )
    layout = read_layout(path, has_groups=place.has_groups)
    files = [
        ListedFile(name, folder.label, folder.split)
        for folder in layout.class_folders
        for name in files_below(path, path / folder.path)
    ]
    classes = sorted({folder.label for folder in layout.class_folders})
    if not files:
        content = f"{len(classes)} folders, all empty" if classes else "no folders"
        raise UserError(
            f"{path} holds {content}. Expected one folder per class with photos inside, "
            f"{EXAMPLE.format(path)}"
        )
    return Listing(path, files, classes, layout.notes)


def unlabelled_files(path: Path) -> list[str]:
    """The files below a folder of photos without labels, as absolute paths.

    Raises:
        UserError: `path` is not a folder.
    """
    if not path.is_dir():
        raise UserError(f"data.unlabelled is {path}. Expected a folder of photos.")
    root = path.resolve()
    return [str(root / name) for name in files_below(root, root)]
