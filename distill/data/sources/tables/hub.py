"""A data set of the Hugging Face hub as a source: `hf:<dataset or folder>`."""

from pathlib import Path

from configs.artifacts import ending
from configs.errors import UserError, ran_out_of_space
from distill.data.sources.folders import files_below, split_of_shard
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.tables.parquet import Parts, list_parquet

REVISIONS = (None, "refs/convert/parquet")
"""Where a data set lies as Parquet: as its author wrote it, or as the hub has converted it."""


@SOURCES.add(
    name="hf", named="a data set of the hub, or a folder", reads=("columns", "group.column")
)
def hub(place: Place) -> Listing:
    """The Parquet or Arrow files of a folder, or of a data set in the cache or on the hub.

    The name of a file or of its folder says its split: train-00000-of-00001.parquet.
    """
    name = place.name
    if not name and place.path is None:
        raise UserError(
            "data.source=hf names no data set. Expected hf:<dataset or folder>, as in "
            "--set data.source=hf:user/flowers"
        )
    folder = place.path or Path(name)
    if not folder.is_dir():
        if place.path is not None or name.startswith((".", "/", "~")):
            raise UserError(f"{folder} is not a folder. Expected one with Parquet or Arrow files.")
        return list_parquet(_of_hub(name), place)
    parts = _parts(folder)
    if not parts:
        raise UserError(
            f"{folder} holds no Parquet or Arrow files. Expected a data set of the hub, as "
            "`hf download --repo-type dataset NAME --local-dir FOLDER` or `save_to_disk` writes it."
        )
    return list_parquet(parts, place)


def _of_hub(name: str) -> Parts:
    """The files of a data set, from the cache of the hub or downloaded to it."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UserError(
            f"{name} is not a folder. To read it from the Hugging Face hub, install one more "
            "package: pip install 'potstill[hf]'"
        ) from None
    problem: Exception | str = "it holds no Parquet files"
    for revision in REVISIONS:
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"]
            )
        except (OSError, ValueError, HFValidationError) as error:  # hub errors are OSErrors
            if ran_out_of_space(error):
                raise
            problem = error
            break
        if parts := _parts(Path(folder)):
            return parts
    raise UserError(
        f"{name} is neither a folder nor a data set that the hub gives: "
        f"{str(problem).splitlines()[0]}\nCheck the name at https://huggingface.co/datasets. "
        "Without a network, download it elsewhere and name the folder:\n"
        f"  hf download --repo-type dataset {name} --local-dir FOLDER"
    )


def _parts(folder: Path) -> Parts:
    """The files with rows, in order, each with its split."""
    names = [name for name in files_below(folder, folder) if ending(name) in (".parquet", ".arrow")]
    return [(folder / name, split_of_shard(name)) for name in names if "cache-" not in name]
