import io
import zipfile
from pathlib import Path

from eval.footprint import file_bytes, zip_bytes


def test_sizes_are_those_of_the_disk_and_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"potstill" * 200_000)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.write(path, "a")
        compressed = file.getinfo("a").compress_size
    assert file_bytes(path) == 1_600_000
    # A zlib stream has two bytes of header and four of checksum around the same data.
    assert zip_bytes(path) == compressed + 6
