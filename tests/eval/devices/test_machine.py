import json
import os
import platform

import numpy as np

from eval.devices.machine import machine, package_version


def test_the_machine_is_described_in_json_values() -> None:
    here = json.loads(json.dumps(machine()))
    assert set(here) == {"cpu", "num_cores", "isa", "os", "python", "packages"}
    assert here["cpu"]
    assert here["num_cores"] == os.cpu_count()
    assert here["python"] == platform.python_version()
    assert here["packages"]["numpy"] == np.__version__


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert package_version("no-such-package-at-all") is None
