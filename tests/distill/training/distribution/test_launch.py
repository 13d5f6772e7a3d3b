"""Which process this is, by the variables that launchers set."""

import pytest

from configs.errors import UserError
from configs.schema.distribution import DistributionConfig
from distill.training.distribution.launch import (
    ALL_IS_TRAINED,
    Launch,
    alone,
    chosen_launch,
    find_launch,
)

JAX = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
TORCH = {"MASTER_ADDR": "worker-0", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1"}
TORCHRUN = {"TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        (JAX, Launch("JAX_NUM_PROCESSES", 4, 3, "10.0.0.1:1234")),
        (SLURM, Launch("Slurm", 2, 1, None)),
        (OPEN_MPI, Launch("Open MPI", 3, 0, None)),
        (TORCH, Launch("WORLD_SIZE", 2, 1, "worker-0:29500")),
        # A job script of Slurm that calls no srun is one process, however many tasks it has.
        ({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2"}, None),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # torchrun itself listens at MASTER_PORT.
        (
            {**TORCH, **TORCHRUN, "JAX_COORDINATOR_ADDRESS": "worker-0:1234"},
            Launch("WORLD_SIZE", 2, 1, "worker-0:1234"),
        ),
        ({"MASTER_ADDR": "worker-0"}, None),
        ({}, None),
        # What a person sets by hand counts more than what Slurm sets.
        ({**SLURM, **JAX}, Launch("JAX_NUM_PROCESSES", 4, 3, "10.0.0.1:1234")),
        (
            {**SLURM, "JAX_COORDINATOR_ADDRESS": "node01:9999"},
            Launch("Slurm", 2, 1, "node01:9999"),
        ),
    ],
)
def test_launchers_say_which_process_this_is(
    variables: dict[str, str], launch: Launch | None
) -> None:
    assert find_launch({"PATH": "/bin", **variables}) == launch


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES=2, JAX_PROCESS_ID not set"),
        ({**JAX, "JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID=one"),
        ({**JAX, "JAX_PROCESS_ID": "4"}, "numbered from 0"),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "Expected HOST:PORT"),
        ({k: JAX[k] for k in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}, "JAX_COORDINATOR_ADDRESS"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT"),
        ({**TORCH, **TORCHRUN}, "JAX_COORDINATOR_ADDRESS"),
        (
            {k: OPEN_MPI[k] for k in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")},
            "JAX_COORDINATOR_ADDRESS",
        ),
    ],
)
def test_variables_that_do_not_fit_are_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_launch(variables)


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        # srun --ntasks-per-node=4 --gpus-per-task=1: each process sees one GPU, as number 0.
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0"}, (0,)),
        # srun --ntasks-per-node=1 --gpus-per-task=4
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (0, 1, 2, 3)),
        # All processes of a machine see all of its GPUs.
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, (0, 1)),
        ({"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "3"}, (0,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_a_process_takes_the_gpus_that_it_alone_sees(
    variables: dict[str, str], gpus: tuple[int, ...] | None
) -> None:
    launch = find_launch({**SLURM, **variables})
    assert launch is not None
    assert launch.gpus == gpus


def test_the_config_decides_whether_processes_train_together() -> None:
    assert chosen_launch(DistributionConfig(), JAX, "jax") == find_launch(JAX)
    assert chosen_launch(DistributionConfig(processes=4), JAX, "jax") == find_launch(JAX)
    assert chosen_launch(DistributionConfig(processes=1), JAX, "tensorflow") is None
    assert chosen_launch(DistributionConfig(), {}, "tensorflow") is None


@pytest.mark.parametrize(
    ("processes", "variables", "backend", "message"),
    [
        (2, JAX, "jax", "processes is 2, and JAX_NUM_PROCESSES started 4"),
        (2, {}, "jax", "processes is 2, and one was started. Start each process with srun"),
        ("auto", SLURM, "tensorflow", "Slurm started 2 processes.*KERAS_BACKEND=jax"),
    ],
)
def test_other_processes_than_expected_are_an_error(
    processes: int, variables: dict[str, str], backend: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        chosen_launch(DistributionConfig(processes=processes), variables, backend)


def test_a_child_process_knows_nothing_of_the_launcher() -> None:
    for variables in (JAX, SLURM, OPEN_MPI, TORCH):
        environment = alone({"PATH": "/bin", **variables})
        assert find_launch(environment) is None
        assert environment.pop(ALL_IS_TRAINED)
        assert environment == {"PATH": "/bin"}


def test_a_child_process_on_trained_models_needs_no_other_processes() -> None:
    config = DistributionConfig(processes=4)
    assert chosen_launch(config, alone(JAX), "tensorflow") is None
