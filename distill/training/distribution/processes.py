"""Processes that train together on JAX: what they tell each other, and what happens if one dies.

Process 0 does the steps of a command and writes all files. The others take part in its trainings
and wait in between. Messages go through the key-value store of JAX' coordinator, in process 0.
"""

import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from configs.errors import StepFailed, UserError, failure_of
from configs.process.packages import check_versions, versions
from configs.process.stopping import Stopped
from distill.training.distribution.launch import Launch

log = logging.getLogger("potstill")

SECONDS_TO_JOIN = 300
BEAT_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""A process from which nothing was heard for so long is dead, or its machine is."""
SECONDS_TO_LEAVE = 30
GO_ON = "Finished epochs are kept. Give the same command again, on as many processes as you like."
END = "end"
BEATS, CALLS, FAILURES, VALUES, WHO = (
    f"potstill/{kind}/" for kind in ("beat", "call", "fail", "value", "who")
)

NOT_OF_OTHERS = (UserError, KeyboardInterrupt, Stopped)
"""Errors that do not come from the death of another process."""

Stop = Callable[[str], NoReturn]
"""Says why, and ends this process, even while another thread waits for a dead process."""


class Group:
    """The processes that train together, as one of them sees them.

    Args:
        client: of JAX' coordinator.
        stop: is called when another process has failed or died.

    Attributes:
        num_here: how many of them run on this machine.
    """

    def __init__(self, launch: Launch, client: Any, stop: Stop) -> None:
        self.num_processes = launch.num_processes
        self.index = launch.index
        self._client = client
        self._stop = stop
        self._numbers = {CALLS: itertools.count(), VALUES: itertools.count()}
        self._has_ended = threading.Event()
        keys = [f"{BEATS}{index}" for index in range(launch.num_processes)]
        self._last_heard = dict.fromkeys(keys, ("", time.monotonic()))
        self.num_here = 1
        self._answered = time.monotonic()
        for watch in (self._watch, self._watch_first):
            threading.Thread(target=watch, daemon=True).start()

    def introduce(self) -> None:
        """Tell the others about this machine, and learn about theirs.

        Raises:
            UserError: a process has other packages than process 0. They would wait for each other.
        """
        mine = json.dumps([socket.gethostname(), versions("jax", "jaxlib")])
        self._client.key_value_set(f"{WHO}{self.index}", mine)
        all_of_them = [self._value(f"{WHO}{index}") for index in range(self.num_processes)]
        said = [json.loads(text) for text in all_of_them]
        for index, (host, found) in enumerate(said):
            check_versions(found, said[0][1], who=f"process {index} on {host}")
        self.num_here = sum(host == said[self.index][0] for host, _ in said)

    @property
    def is_first(self) -> bool:
        """Whether this process does the steps and writes the files."""
        return self.index == 0

    def call(self, name: str) -> None:
        """Process 0: let the others take part in the training `name`."""
        self._send(CALLS, name)

    def calls(self) -> Iterator[str]:
        """The others: the trainings to take part in, until process 0 is done."""
        while (name := self._receive(CALLS)) != END:
            yield name

    def agreed(self, find: Callable[[], Any]) -> Any:
        """What `find` returns in process 0, as JSON values; all processes have to ask for it."""
        if not self.is_first:
            return json.loads(self._receive(VALUES))
        value = find()
        self._send(VALUES, json.dumps(value))
        return value

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the group. Process 0 dismisses the others; after an error, all of them stop.

        After an error the process should end by `os._exit`, or JAX waits for the others at its end.
        """
        from jax import distributed, errors

        if self._has_ended.is_set():
            return
        if error is not None and not isinstance(error, NOT_OF_OTHERS):
            self._wait_until_all_live()
        self._has_ended.set()
        try:
            if error is not None:
                reason = failure_of(error) if isinstance(error, Exception) else "it was interrupted"
                self._client.key_value_set(f"{FAILURES}{self.index}", reason)
                time.sleep(BEAT_SECONDS + 1.0)  # the others read it before the store is gone
                return
            if self.is_first:
                self.call(END)
            distributed.shutdown()
        except errors.JaxRuntimeError as problem:
            log.debug("leaving the other processes: %s", problem)

    def _wait_until_all_live(self) -> None:
        """Return when every process was heard. If one is dead, the watch stops this process.

        An update fails here when another process dies in the middle of it. Its last beat may be
        noticed only after that.
        """
        from jax import errors

        time.sleep(BEAT_SECONDS)  # a beat that was under way has arrived then
        try:
            before = dict(self._client.key_value_dir_get(BEATS))
        except errors.JaxRuntimeError:  # process 0 is dead: the watch says so, and ends this one
            time.sleep(2 * SILENT_SECONDS)
            return
        while any(
            _number(text) <= _number(before.get(key, ""))
            for key, (text, _) in list(self._last_heard.items())
        ):
            time.sleep(BEAT_SECONDS)

    def _send(self, kind: str, text: str) -> None:
        self._client.key_value_set(f"{kind}{next(self._numbers[kind])}", text)

    def _receive(self, kind: str) -> str:
        return self._value(f"{kind}{next(self._numbers[kind])}")

    def _value(self, key: str) -> str:
        """What a process has said under this key, or will say."""
        from jax import errors

        while True:
            try:
                return str(self._client.blocking_key_value_get(key, 5000))
            except errors.JaxRuntimeError:
                time.sleep(0.1)  # nothing yet; the watch ends a wait that is in vain

    def _watch(self) -> None:
        """Say every few seconds that this process lives, and stop it when another one does not."""
        host = socket.gethostname()
        for number in itertools.count():
            if self._has_ended.wait(BEAT_SECONDS):
                return
            beat = json.dumps([host, number])
            try:
                self._client.key_value_set(f"{BEATS}{self.index}", beat, allow_overwrite=True)
                beats = dict(self._client.key_value_dir_get(BEATS))
                failures = dict(self._client.key_value_dir_get(FAILURES))
                self._answered = time.monotonic()
            except Exception as error:
                if self._has_ended.is_set():
                    return
                self._stop(f"process 0 has died or cannot be reached ({_line(error)}). {GO_ON}")
            failures.pop(f"{FAILURES}{self.index}", None)  # this process says itself why it ends
            for key, reason in failures.items():
                index = key.removeprefix(FAILURES)
                self._stop(f"process {index} of {self.num_processes} stopped: {reason}\n{GO_ON}")
            for key, (before, heard) in list(self._last_heard.items()):
                text = beats.get(key, "")
                if text != before:
                    self._last_heard[key] = text, time.monotonic()
                elif time.monotonic() - heard > SILENT_SECONDS:
                    place = f" on {json.loads(text)[0]}" if text else ""
                    self._stop(
                        f"process {key.removeprefix(BEATS)} of {self.num_processes}{place} has "
                        "died or cannot be reached: nothing was heard from it for "
                        f"{SILENT_SECONDS:.0f} seconds. {GO_ON}"
                    )

    def _watch_first(self) -> None:
        """Stop this process when process 0 does not answer: `_watch` would wait for it for ever."""
        while not self._has_ended.wait(BEAT_SECONDS):
            if time.monotonic() - self._answered > SILENT_SECONDS:
                self._stop(
                    f"process 0 of {self.num_processes} has died or cannot be reached: it did not "
                    f"answer for {SILENT_SECONDS:.0f} seconds. {GO_ON}"
                )


_group: Group | None = None


def current() -> Group | None:
    """The processes that this one trains with; None if it trains alone."""
    return _group


def num_processes_here() -> int:
    """How many processes of this training share this machine."""
    return 1 if _group is None else _group.num_here


@contextmanager
def joined(launch: Launch, stop: Stop) -> Iterator[Group]:
    """Within the block, this process belongs to a group. No JAX computation may come before it.

    Raises:
        StepFailed: not all processes of the launch came.
        UserError: they have different packages.
    """
    global _group
    _group = group = Group(launch, _connect(launch), stop)
    try:
        group.introduce()
        yield group
    except BaseException as error:
        group.leave(error)
        raise
    else:
        group.leave()
    finally:
        _group = None


def _connect(launch: Launch) -> Any:
    """Join the processes of a launch; returns the client of their coordinator."""
    import jax
    from jax._src import distributed

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM, with which a scheduler asks for a checkpoint, and tell nobody.
    jax.config.update("jax_enable_preemption_service", False)
    place = f" at {launch.coordinator}" if launch.coordinator else ""
    log.info(
        "process %d of %d (%s) waits for the others%s",
        launch.index, launch.num_processes, launch.launcher, place,
    )  # fmt: skip
    try:
        jax.distributed.initialize(
            coordinator_address=launch.coordinator,
            num_processes=launch.num_processes,
            process_id=launch.index,
            local_device_ids=launch.gpus,
            initialization_timeout=SECONDS_TO_JOIN,
            shutdown_timeout_seconds=SECONDS_TO_LEAVE,
        )
        jax.devices()  # the processes tell each other of their devices, and wait two minutes for it
    except (RuntimeError, ValueError) as error:
        raise StepFailed(
            f"the {launch.num_processes} processes that {launch.launcher} started did not come "
            f"together{place}: {_line(error)}. Check that all were started, with the same number "
            "and address, and that the port of process 0 is free and can be reached."
        ) from error
    client = distributed.global_state.client
    if client is None:
        raise UserError("JAX did not join the other processes.")
    return client


def _number(beat: str) -> int:
    return int(json.loads(beat)[1]) if beat else -1


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
