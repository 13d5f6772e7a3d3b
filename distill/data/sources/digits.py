"""The handwritten digits of scikit-learn as a source."""

import os

from configs.artifacts import whole_file
from configs.errors import UserError
from distill.data.sources.listing import SOURCES, ListedFile, Listing, Place
from distill.data.sources.unpacked import FIXED_TIME


@SOURCES.add
def digits(place: Place) -> Listing:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, written as PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    if place.path is not None:
        raise UserError(
            f"data.path is {place.path}, but source digits reads no folder. "
            "Set data.source=folder to use the photos, or leave data.path out."
        )
    root = place.run_data / "digits"
    bunch = load_digits()
    files: list[ListedFile] = []
    for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        name = f"{label}/{number:04d}.png"
        if not (root / name).exists():
            with whole_file(root / name) as unfinished:
                # Sixteen grey levels; the factor 255 / 16 makes full ink white.
                Image.fromarray((image * 15.9375).astype("uint8")).save(unfinished)
                # Two processes may write the same photo. With one time of change for both, the
                # second does not make the photo look like a new one.
                os.utime(unfinished, (FIXED_TIME, FIXED_TIME))
        files.append(ListedFile(name, str(label), None))
    return Listing(root, files)
