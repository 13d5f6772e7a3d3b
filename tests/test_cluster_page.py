"""The files for Slurm and Kubernetes on docs/from-laptop-to-cluster.md are complete and agree."""

import re
from typing import Any

import pytest
import yaml

from doc_pages import commands_in, files
from support import ROOT
from test_doc_commands import check_parsed

PAGE = ROOT / "docs" / "from-laptop-to-cluster.md"
FILES = files(PAGE)
BATCHES = sorted(name for name in FILES if name.endswith(".sbatch"))
MANIFESTS = sorted(name for name in FILES if name.endswith(".yaml"))
NUM_SHARDS = 16


def jobs(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a file for Kubernetes, by their kind."""
    documents = list(yaml.safe_load_all(FILES[name]))
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_file_asks_first_and_stops_at_an_error(name: str) -> None:
    lines = FILES[name].splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH")]
    # Slurm reads no further than the first command.
    assert directives == lines[1 : 1 + len(directives)]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in directives)
    assert f"#SBATCH --job-name={name.removesuffix('.sbatch')}" in directives
    assert "#SBATCH --requeue" in directives
    assert lines[1 + len(directives)] == "set -e"


def test_every_command_for_slurm_is_parsed() -> None:
    commands = [c for name in BATCHES for c in commands_in(PAGE, FILES[name])]
    assert len(commands) == 5
    for command in commands:
        check_parsed(command)


def test_the_shards_of_slurm_are_all_there() -> None:
    assert f"#SBATCH --array=1-{NUM_SHARDS}\n" in FILES["labels.sbatch"]
    (command,) = commands_in(PAGE, FILES["labels.sbatch"])
    assert command.words[-1] == f"$SLURM_ARRAY_TASK_ID/{NUM_SHARDS}"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_job_of_kubernetes_is_complete(name: str) -> None:
    job = jobs(name)["Job"]
    assert job["apiVersion"] == "batch/v1"
    assert job["metadata"]["name"] == name.removesuffix(".yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]  # all of them, at the same time
    assert pod["restartPolicy"] == "OnFailure"
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"]: "/shared" for volume in pod["volumes"]}
    words = container["command"]
    text = words[-1] if words[0] == "bash" else " ".join(words)
    (command,) = commands_in(PAGE, text)
    check_parsed(command)
    if command.words[1] == "label":
        assert command.words[-1] == f"$((JOB_COMPLETION_INDEX + 1))/{spec['completions']}"


def test_the_processes_of_a_training_find_the_first_one() -> None:
    service, job = jobs("teacher.yaml")["Service"], jobs("teacher.yaml")["Job"]
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"  # so that it names pods, and balances nothing
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["KERAS_BACKEND"] == "jax"
    assert env["JAX_NUM_PROCESSES"] == str(job["spec"]["completions"])
    host, _, port = env["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert port.isdecimal()
    (process,) = [v for v in container["env"] if v["name"] == "JAX_PROCESS_ID"]
    path = process["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
