from pathlib import Path

import pytest

from compress.registries import REGISTRIES
from compress.run.execution import ensure
from configs.errors import UserError
from configs.loading.targets import open_run


def test_the_command_to_type_next_works_for_a_folder_of_any_name(
    tmp_path: Path, photo_folder: Path
) -> None:
    photos = photo_folder.rename(tmp_path / "my ${HOME}")
    run, experiment = open_run(
        str(photos), run=tmp_path / "run", overrides=[], registries=lambda: REGISTRIES
    )
    ensure(run, experiment, ["data"], str(photos))
    with pytest.raises(UserError) as caught:
        ensure(run, experiment, ["teacher"], str(photos))
    assert f"distill teacher '{photos}' --run {run}" in str(caught.value)
