import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from compress.run.whole_run import said_by
from configs.process.stopping import Stopped, stops_on_signals

TIDIES_UP = """
import signal, sys, time
from pathlib import Path

def tidy_up(*_):
    Path(sys.argv[1], "tidied up").touch()
    sys.exit()

signal.signal(signal.SIGTERM, tidy_up)
Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""


@pytest.mark.usefixtures("usual_handlers")
def test_a_child_process_tidies_up_when_its_parent_has_to_end(tmp_path: Path) -> None:
    def ask_to_end() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_to_end, daemon=True).start()
    with stops_on_signals(), pytest.raises(Stopped):
        said_by([sys.executable, "-c", TIDIES_UP, str(tmp_path)])
    assert (tmp_path / "tidied up").exists()


def test_what_a_child_process_says_goes_where_ours_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('one\\ntwo'); print('three', file=sys.stderr)"
    with open(tmp_path / "terminal", "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert said_by([sys.executable, "-c", program]) == ["one", "two"]
    assert (tmp_path / "terminal").read_text() == "three\n"
