import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.photo_files import UnreadablePhoto, photo_header
from eval.serve.answers import FileAnswers
from support import ROOT, save_photo


def test_a_photo_in_memory_gives_the_pixels_of_its_file(onnx_file: Path, tmp_path: Path) -> None:
    model = FileAnswers(onnx_file)
    for name in ("a.png", "a.jpg", "a.webp", "a.tiff"):
        photo = save_photo(tmp_path / name, seed=3, size=(40, 25))
        assert (model.image(BytesIO(photo.read_bytes())) == model.image(photo)).all()


def test_threads_get_the_answers_to_their_own_photos(
    tflite_files: dict[str, Path], colours: np.ndarray
) -> None:
    # Each image has its own class; an interpreter that two threads shared would mix them up.
    model = FileAnswers(tflite_files["float32"])

    def best(number: int) -> str:
        (answers,), _ = model.answers([colours[number % 3]])
        return answers.classes[0].name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(best, range(600)))
    assert names == [str(number % 3) for number in range(600)]


def test_a_header_tells_the_pixels_of_a_photo_without_decoding_it() -> None:
    photo = BytesIO()
    Image.new("1", (20_000, 8_000)).save(photo, "PNG")
    cut = BytesIO(photo.getvalue()[:60])  # its pixels are not there
    assert photo_header(cut) == ("PNG", 160_000_000)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_bytes_without_a_whole_header_are_no_photo(content: bytes) -> None:
    with pytest.raises(UnreadablePhoto):
        photo_header(BytesIO(content))


def test_predicting_imports_no_training_framework(onnx_file: Path, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "photo.png", seed=1)
    code = (
        "import sys, cli\n"
        f"sys.argv = ['evaluate', 'predict', {str(onnx_file)!r}, {str(photo)!r}]\n"
        "try: cli.evaluate()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'tensorflow', 'keras', 'scipy', 'sklearn'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "photo.png" in result.stdout
