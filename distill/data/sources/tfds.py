"""A data set of TensorFlow Datasets as a source: `tfds:<name>`, as it lies on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.registry import nearest
from distill.data.manifest import UNLABELLED
from distill.data.sources.folders import split_of_name
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.unpacked import RawPhoto, unpacked_photos
from eval.metadata import class_name


@SOURCES.add(
    named="the name of a data set, as in tfds:cats_vs_dogs", reads=("columns", "group.column")
)
def tfds(place: Place) -> Listing:
    """A prepared data set in `data.path`, or where TensorFlow Datasets keeps its own."""
    if not place.name:
        raise UserError(
            "data.source=tfds names no data set. Expected tfds:<name>, as in "
            "--set data.source=tfds:cats_vs_dogs"
        )
    builder = _builder(place.name, place.path)
    features = builder.info.features
    photo = _feature(features, "Image", place, "photo")
    label = _feature(features, "ClassLabel", place, "label")
    group = place.group_column
    if group is not None and group not in features:
        raise UserError(
            f"tfds:{place.name} has no feature {group!r} (data.group.column)."
            f"{nearest(group, features)}"
        )
    sizes = {name: int(info.num_examples) for name, info in builder.info.splits.items()}
    inputs = {"tfds": builder.info.full_name, "splits": sizes, "features": [photo, label, group]}
    photos = partial(_photos, builder, sizes, photo, label, group)
    with _readable(place.name):
        root, files = unpacked_photos(place.run_data, inputs, photos, sum(sizes.values()))
    return Listing(root, files, sorted(map(class_name, features[label].names)))


def _builder(name: str, folder: Path | None) -> Any:
    """The reader of a data set that lies on this machine.

    Raises:
        UserError: the package or the data set is not here.
    """
    try:
        import tensorflow_datasets
        from tensorflow_datasets.core.read_only_builder import builder_from_files as from_files
    except ImportError:
        raise UserError(
            f"to read tfds:{name}, install one more package: pip install 'potstill[tfds]'"
        ) from None
    where = "" if folder is None else f" --data_dir {folder}"
    try:
        if folder is not None and (folder / "dataset_info.json").exists():
            return tensorflow_datasets.builder_from_directory(folder)
        data_dir = {} if folder is None else {"data_dir": str(folder)}
        return from_files(name, **data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"tfds:{name} cannot be read: {error}. Prepare it again.") from None
    raise UserError(
        f"tfds:{name} is not on this machine. Prepare it once, and give the same command again:\n"
        f"  tfds build {name}{where}\n"
        "If it lies elsewhere, name the folder that holds it: --set data.path=FOLDER"
    )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raises UserError in place of TensorFlow's errors."""
    from tensorflow.errors import OpError

    try:
        yield
    except OpError as error:
        reason = str(error.message).splitlines()[0]
        raise UserError(f"tfds:{name} cannot be read: {reason}. Prepare it again.") from None


def _feature(features: Any, kind: str, place: Place, key: str) -> str:
    """The name of the one feature of a kind, or of the one that `data.columns` names."""
    names = [name for name, feature in features.items() if type(feature).__name__ == kind]
    chosen = getattr(place.columns, key, None) if place.columns else None
    if chosen is not None and chosen not in names:
        raise UserError(
            f"tfds:{place.name} has no {kind} {chosen!r} (data.columns.{key})."
            f"{nearest(chosen, names)}"
        )
    if chosen is None and key in names:
        chosen = key
    if chosen is None and len(names) != 1:
        raise UserError(
            f"tfds:{place.name} has {len(names)} features of kind {kind} "
            f"({', '.join(names) or 'none'}). Expected photos with one label each. "
            f"Name one: --set data.columns.{key}=FEATURE"
        )
    return str(chosen or names[0])


def _photos(
    builder: Any, sizes: dict[str, int], photo: str, label: str, group: str | None
) -> Iterator[RawPhoto]:
    import tensorflow_datasets

    names = [class_name(name) for name in builder.info.features[label].names]
    # The files hold photos as they were encoded. They are decoded when they are scanned.
    decoders = {photo: tensorflow_datasets.decode.SkipDecoding()}
    for split_name in sizes:
        split = split_of_name(split_name)
        examples = builder.as_dataset(
            split=split_name,
            shuffle_files=False,
            decoders=decoders,
            read_config=tensorflow_datasets.ReadConfig(interleave_cycle_length=1),
        )
        for number, example in enumerate(examples.as_numpy_iterator()):
            index = int(example[label])
            known = 0 <= index < len(names) and split != UNLABELLED
            in_group = "" if group is None else _text(example[group])
            yield RawPhoto(
                partial(bytes, example[photo]),
                _name(example, f"{split_name}[{number}]"),
                names[index] if known else "",
                (None if split == "train" else split) if known else UNLABELLED,
                in_group,
            )


def _name(example: dict[str, Any], otherwise: str) -> str:
    """The name of the file that a photo had, where the data set keeps it."""
    keys = ("image/filename", "file_name", "filename")
    return next((_text(example[key]) for key in keys if key in example), otherwise)


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
