"""Which of several processes this one is, by the variables that its launcher set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.errors import UserError
from configs.schema.distribution import DistributionConfig

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
JAX, TORCH = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), ("WORLD_SIZE", "RANK")
SLURM, OPEN_MPI = ("SLURM_NTASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID", *SLURM)
"""Slurm sets all of these for a process that srun started."""
OPEN_MPI_ADDRESS = "OMPI_MCA_orte_hnp_uri"
TORCH_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
TORCHRUN = "TORCHELASTIC_USE_AGENT_STORE"
"""torchrun listens at TORCH_ADDRESS itself, so process 0 cannot."""
GPUS = "CUDA_VISIBLE_DEVICES"
PROCESSES_HERE = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE")
LAUNCHER_VARIABLES = frozenset(
    {COORDINATOR, OPEN_MPI_ADDRESS, TORCHRUN, *JAX, *TORCH, *TORCH_ADDRESS, *OPEN_MPI, *SLURM_STEP}
)

ALL_IS_TRAINED = "POTSTILL_ALL_IS_TRAINED"
"""The environment variable of a child process that works alone on trained models."""

HOW_TO_START = (
    "Start each process with srun, with mpirun, or with the variables JAX_COORDINATOR_ADDRESS "
    "(HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID."
)


@dataclass(frozen=True)
class Launch:
    """One of several processes that were started together.

    Attributes:
        launcher: what started them, for messages.
        index: of this process, from 0.
        coordinator: host:port where process 0 listens; None: JAX knows it from the launcher.
        gpus: of those that it sees, the ones that it trains on; None: JAX chooses.
    """

    launcher: str
    num_processes: int
    index: int
    coordinator: str | None = None
    gpus: tuple[int, ...] | None = None


def find_launch(environment: Mapping[str, str]) -> Launch | None:
    """The launch that this process belongs to; None if it was started alone.

    Raises:
        UserError: variables are missing or contradict each other.
    """
    coordinator = environment.get(COORDINATOR)
    needs_address: tuple[str, ...] = ()
    if any(name in environment for name in JAX):
        launch = _launch(environment, "JAX_NUM_PROCESSES", JAX, coordinator)
        needs_address = (COORDINATOR,)
    elif all(name in environment for name in SLURM_STEP):
        launch = _launch(environment, "Slurm", SLURM, coordinator)
    elif all(name in environment for name in OPEN_MPI):
        launch = _launch(environment, "Open MPI", OPEN_MPI, coordinator)
        if OPEN_MPI_ADDRESS not in environment:
            needs_address = (COORDINATOR,)
    elif all(name in environment for name in TORCH):
        listens = environment.get(TORCHRUN) == "True"
        needs_address = (COORDINATOR,) if listens else TORCH_ADDRESS
        if coordinator is None and not listens and {*TORCH_ADDRESS} <= {*environment}:
            coordinator = ":".join(environment[name] for name in TORCH_ADDRESS)
        launch = _launch(environment, "WORLD_SIZE", TORCH, coordinator)
    else:
        return None
    if launch.num_processes == 1:
        return None
    if needs_address and coordinator is None:
        raise UserError(
            f"{launch.launcher} says that {launch.num_processes} processes were started, and "
            f"{' and '.join(needs_address)} is not set. Expected HOST:PORT of process 0. "
            f"{HOW_TO_START}"
        )
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"the address of process 0 is {coordinator!r}. Expected HOST:PORT.")
    return replace(launch, gpus=_own_gpus(environment))


def _own_gpus(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """All GPUs that this process sees, if it need not share them.

    Of those that all processes of a machine see, JAX takes one for each. It would do so as well
    where the launcher shows each process its own, and then look for GPUs that are not there.
    """
    said = next((environment[name] for name in PROCESSES_HERE if name in environment), "")
    num_processes = re.match(r"\d+", said)  # Slurm writes 4(x2) for two machines
    visible = [gpu for gpu in environment.get(GPUS, "").split(",") if gpu]
    if num_processes is None or not visible:
        return None
    is_alone, sees_too_few = int(num_processes[0]) == 1, int(num_processes[0]) > len(visible)
    return tuple(range(len(visible))) if is_alone or sees_too_few else None


def _launch(
    environment: Mapping[str, str], launcher: str, names: tuple[str, str], coordinator: str | None
) -> Launch:
    """The launch that two variables describe: the number of processes, and which one this is."""
    values = [environment.get(name) for name in names]
    if not all(value is not None and value.isdecimal() for value in values):
        said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UserError(
            f"{said.replace('=None', ' not set')}. Expected two numbers. {HOW_TO_START}"
        )
    num_processes, index = (int(str(value)) for value in values)
    if index >= num_processes:
        raise UserError(
            f"{names[1]} is {index} and {names[0]} is {num_processes}. Processes are numbered from "
            "0, so expected a smaller number."
        )
    return Launch(launcher, num_processes, index, coordinator)


def chosen_launch(
    config: DistributionConfig, environment: Mapping[str, str], backend: str
) -> Launch | None:
    """The launch in which this process trains; None if it trains alone.

    Raises:
        UserError: the config expects other processes, or the backend trains in one process only.
    """
    if config.processes == 1 or ALL_IS_TRAINED in environment:
        return None
    launch = find_launch(environment)
    if config.processes != "auto" and config.processes != (launch.num_processes if launch else 1):
        started = (
            f"{launch.launcher} started {launch.num_processes}" if launch else "one was started"
        )
        raise UserError(
            f"distribution.processes is {config.processes}, and {started}. {HOW_TO_START} Or set "
            "distribution.processes to auto."
        )
    if launch is not None and backend != "jax":
        raise UserError(
            f"{launch.launcher} started {launch.num_processes} processes, and with Keras on "
            f"{backend} one process trains. Train on JAX: KERAS_BACKEND=jax (pip install "
            "'potstill[jax]'). Or start one process; distribution.devices=all uses its GPUs. "
            "distribution.processes=1 lets processes work alone, each on a run of its own."
        )
    return launch


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process that works alone on trained models.

    It needs neither the devices nor the processes of the config, and launchers did not start it.
    """
    rest = {name: value for name, value in environment.items() if name not in LAUNCHER_VARIABLES}
    return {**rest, ALL_IS_TRAINED: "1"}
