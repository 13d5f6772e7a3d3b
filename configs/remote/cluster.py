"""Tasks on the workers of a Ray cluster: `--on ray`.

Ray schedules them, and repeats those of lost workers. All workers see the same files at the same
paths as this process, and have the same packages.
"""

import logging
import os
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Self, TypeVar

from configs.errors import StepFailed, UserError, failure_of
from configs.process.packages import check_versions, versions

log = logging.getLogger("potstill")

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_RETRIES = 5
"""How often Ray repeats a task whose worker was lost."""

TASKS_FOR_A_WORKER = 2
"""So many tasks are given for each worker: one that it does, and one that waits for it."""

RETRIES_WITHOUT_MEMORY = "RAY_task_oom_retries"
"""Ray's own setting for tasks that it ends because memory is short. By default it has no limit."""

SECONDS_BETWEEN_NOTES = 60
SECONDS_TO_KNOCK = 10

LOCAL_STORE_BYTES = 2**27
"""Results that wait on this machine, if it is no part of a cluster. Ray writes more to its disk."""

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
SHARED_GPU = "TF_FORCE_GPU_ALLOW_GROWTH"
"""With it TensorFlow takes memory of a GPU as it needs it, and leaves the rest to others."""

PASSED_ON = ("KERAS_BACKEND", "TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS", SHARED_GPU)
"""Variables of this process that change results, or what is left for it on a GPU. Workers get
them."""


class Cluster:
    """The cluster of `RAY_ADDRESS`, or the one that runs on this machine, or this machine itself.

    It connects when the first task is given. Use it in a `with` block, which disconnects.
    """

    def __init__(self) -> None:
        self._connected: Any = None
        # A worker on this machine may get the GPU on which this process loads the teachers.
        # TensorFlow reads it when it first uses the GPU.
        os.environ.setdefault(SHARED_GPU, "true")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._connected is not None:
            self._connected.shutdown()
            self._connected = None

    @property
    def num_workers(self) -> int:
        """How many tasks can be done at the same time: one for each GPU, or for each CPU."""
        resources = self._ray().cluster_resources()
        return max(int(resources.get("GPU", 0)) or int(resources.get("CPU", 0)), 1)

    def map(
        self,
        task: Callable[[Item], Answer],
        items: Iterable[Item],
        note: Callable[[], str] = lambda: "waiting for a task",
    ) -> Iterator[Answer]:
        """The answers of `task` for all items, in their order.

        A worker keeps the task object for its next item, so the object may keep what it opened.

        Args:
            note: what the log says every minute while no answer comes.

        Raises:
            UserError, StepFailed: the task raised it, or a task was repeated too often.
        """
        ray = self._ray()
        num_gpus, num_cpus = _share_of_a_worker([node["Resources"] for node in ray.nodes()])
        on_worker = ray.remote(max_retries=MAX_RETRIES, num_cpus=num_cpus, num_gpus=num_gpus)(
            _answer
        )
        packed, remaining = ray.put(pickle.dumps(task)), iter(items)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {name: str(num_cpus) for name in THREADS if num_cpus > 1}
        setup = os.getcwd(), environment, versions()
        waiting: deque[Any] = deque()

        def fill(num_tasks: int) -> None:
            for item in islice(remaining, max(num_tasks - len(waiting), 0)):
                waiting.append(on_worker.remote(packed, item, *setup))

        try:
            fill(TASKS_FOR_A_WORKER * self.num_workers)
            while waiting:
                answer = self._answer_of(waiting.popleft(), note)
                fill(TASKS_FOR_A_WORKER * self.num_workers)
                yield answer
        finally:
            for left in waiting if self._connected else ():
                ray.cancel(left, force=True)

    def _answer_of(self, reference: Any, note: Callable[[], str]) -> Any:
        ray = self._ray()
        try:
            while not ray.wait([reference], timeout=SECONDS_BETWEEN_NOTES)[0]:
                num_machines = sum(node["Alive"] for node in ray.nodes())
                log.info("%s; machines in the cluster: %d", note(), num_machines)
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            log.debug("on a worker: %s", error)
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise StepFailed(
                f"a task failed on a worker: {failure_of(error.cause)}. Finished tasks are kept."
            ) from None
        except ray.exceptions.RayError as error:
            raise StepFailed(
                f"a task was lost {MAX_RETRIES + 1} times with its worker "
                f"({failure_of(error)}). Finished tasks are kept. Often its machine has too "
                "little memory: start Ray there with fewer CPUs (ray start --num-cpus), and give "
                "the same command again."
            ) from None

    def _ray(self) -> Any:
        """The module `ray`, connected.

        Raises:
            UserError: it is not installed, or no cluster answers.
        """
        if self._connected is None:
            self._connected = _connect()
        return self._connected


def _connect() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(
            "--on ray needs Ray. Install it here and on all workers: pip install 'potstill[ray]'"
        ) from None
    init = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    stops = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        if address not in ("auto", "local"):
            _knock(address)  # Ray itself would try for minutes
        if address != "local":
            init(address=address)
    except (ValueError, OSError, RuntimeError) as error:
        is_no_cluster = address == "auto" and isinstance(error, ConnectionError)
        if not is_no_cluster:
            raise UserError(
                f"the Ray cluster at {address} cannot be used ({failure_of(error)}). Expected the "
                "host:port of a cluster in RAY_ADDRESS, with the same Ray and Python as here. "
                "Start one with ray start --head, or set RAY_ADDRESS=local to use this machine."
            ) from None
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(RETRIES_WITHOUT_MEMORY, str(MAX_RETRIES))
        init(address="local", include_dashboard=False, object_store_memory=LOCAL_STORE_BYTES)
    signal.signal(signal.SIGTERM, stops)  # Ray sets its own
    return ray


def _share_of_a_worker(machines: Iterable[Mapping[str, float]]) -> tuple[int, int]:
    """(GPUs, CPUs) of a task: one GPU with its share of the CPUs that decode for it, or one CPU."""
    shares = [
        int(machine.get("CPU", 0) // machine["GPU"]) for machine in machines if machine.get("GPU")
    ]
    return (1, max(min(shares), 1)) if shares else (0, 1)


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless somebody listens at host:port."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    socket.create_connection((host, int(port)), timeout=SECONDS_TO_KNOCK).close()


def _answer(
    packed: bytes, item: Any, folder: str, environment: dict[str, str], expected: dict[str, str]
) -> Any:
    """Do one task; this runs on a worker."""
    if os.path.isdir(folder):  # a config may name files relative to it
        os.chdir(folder)
    os.environ.update(environment)
    # Without GPUs, a task has one CPU, and a machine does as many tasks as it has CPUs.
    for name in THREADS:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    check_versions(versions(), expected, who="a worker")
    return _unpacked(packed)(item)


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Callable[[Any], Any]:
    # Here TensorFlow is imported, after its variables are set.
    task: Callable[[Any], Any] = pickle.loads(packed)
    return task
