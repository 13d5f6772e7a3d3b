"""What tests of faults start from: photos, a config and all that commands make from them."""

from pathlib import Path

import pytest

from faults.harness import COMMANDS, CONFIG, run_to_end, write_photos


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and config.yaml, and the finished folders run/ and bare/."""
    place = tmp_path_factory.mktemp("kills")
    write_photos(place / "photos")
    (place / "config.yaml").write_text(CONFIG)
    run_to_end("distill run config.yaml --run run", cwd=place)
    run_to_end(COMMANDS["bare model"].words.format(folder="bare"), cwd=place)
    return place
