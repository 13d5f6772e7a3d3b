import json
import os
import platform

import numpy as np

from configs.records import to_json
from eval.devices.machine import Machine, package_version, this_machine
from eval.devices.probe import MachineState


def test_this_machine_is_described_in_json_values() -> None:
    machine = json.loads(json.dumps(to_json(this_machine())))
    assert set(machine) == {"cpu", "num_cores", "isa", "os", "python", "packages"}
    assert machine["cpu"]
    assert machine["num_cores"] == os.cpu_count()
    assert machine["python"] == platform.python_version()
    assert machine["packages"]["numpy"] == np.__version__


def test_what_a_machine_does_not_say_is_unknown() -> None:
    machine = Machine.of_state(MachineState(cpu="SM8550", os="Android 15"))
    assert to_json(machine) == {
        "cpu": "SM8550", "os": "Android 15",
        "num_cores": None, "isa": None, "python": None, "packages": None,
    }  # fmt: skip


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("no-such-package-at-all") is None
