import contextlib
import os
import signal
from pathlib import Path

import pytest

from configs.process import stopping
from configs.process.stopping import (
    SIGNALS,
    Stopped,
    stop_if_requested,
    stop_is_requested,
    stop_waits,
    stops_on_signals,
)
from configs.resume import Step, take_step

pytestmark = pytest.mark.usefixtures("usual_handlers")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_the_main_thread_does(number: signal.Signals) -> None:
    with stops_on_signals(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.signal == number
    assert not isinstance(caught.value, Exception)


def test_a_signal_waits_until_the_state_is_saved() -> None:
    with stops_on_signals(), stop_waits():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_is_requested()
        with pytest.raises(Stopped):
            stop_if_requested()


def test_a_second_ctrl_c_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SECONDS_OF_ONE_ASKING", 0.0)
    with stops_on_signals(), stop_waits():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_follow_at_once_ask_no_second_time(number: signal.Signals) -> None:
    # A terminal that closes sends SIGHUP twice, and `timeout` signals a process and its group.
    with stops_on_signals(), stop_waits():
        for _ in range(3):
            os.kill(os.getpid(), number)
        with pytest.raises(Stopped):
            stop_if_requested()


def test_a_signal_that_repeats_disturbs_no_tidying_up() -> None:
    with stops_on_signals():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_only_ctrl_c_hurries(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SECONDS_OF_ONE_ASKING", 0.0)
    with stops_on_signals(), stop_waits():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), number)
        assert stop_is_requested()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stops_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop_is_requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_step_begins_after_a_signal_that_a_library_swallowed(tmp_path: Path) -> None:
    step = Step("thing", tmp_path / "manifest.json", {}, lambda workspace: ([], {}))
    with stops_on_signals():
        with contextlib.suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            take_step(step)
    take_step(step)
