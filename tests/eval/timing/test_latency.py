"""A latency as JSON, in report.json and `results/latency-<device>.json`, and in digits."""

from configs.records import from_json, to_json
from eval.devices.probe import Delegate, MachineState, Readings
from eval.timing.latency import Latency, SpeedDifference, milliseconds

STORED = {
    "device": "local", "num_threads": 1, "num_runs": 20, "noise_floor": 0.02,
    "runtime": "litert 2.3.0", "batch": 1, "num_warmup": 23, "p50_ms": 0.25, "p90_ms": 0.5,
    "p99_ms": 0.75, "mean_ms": 0.25, "load_ms": 8.0, "first_ms": 0.5, "peak_rss_mib": 70.5,
    "delegate": {"name": "XNNPACK", "num_partitions": 1, "num_ops": 6, "num_delegated_ops": 5},
    "state": {
        "cpu": "EPYC", "isa": ["avx2"], "num_cores": 2, "cores": [0, 1], "os": "Linux 6",
        "python": "3.11.7", "mhz": 2596.1, "load": 1.25, "after": {"mhz": 2596.1, "load": 1.5},
    },
    "round_min_ms": [0.25, 0.2],
    "times_ms": [0.25, 0.3],
    "against_fastest": {"ratio": 1.1, "low": 1.0, "high": 1.2, "verdict": "slower"},
}  # fmt: skip
"""As written before a latency had a type: a state leaves out what the machine does not say."""


def test_a_latency_that_was_stored_is_read_back() -> None:
    latency = from_json(Latency, STORED)
    assert latency.p50_ms == 0.25
    assert latency.delegate == Delegate("XNNPACK", 1, 6, 5)
    assert (latency.state.cores, latency.state.governor) == ((0, 1), None)
    assert latency.state.after == Readings(mhz=2596.1, load=1.5)
    assert latency.against_fastest == SpeedDifference(1.1, 1.0, 1.2, "slower")
    assert latency.times_ms == (0.25, 0.3)


def test_a_report_gets_every_field_but_the_raw_times() -> None:
    row = to_json(from_json(Latency, STORED))
    assert set(row) == set(STORED) - {"times_ms"}
    unknown = {"governor": None, "temperature_c": None}
    after = {"mhz": 2596.1, "temperature_c": None, "load": 1.5}
    assert row["delegate"] == {**STORED["delegate"], "others": None}  # type: ignore[dict-item]
    assert row["state"] == {**STORED["state"], **unknown, "after": after}  # type: ignore[dict-item]
    typed = {"state": row["state"], "delegate": row["delegate"]}
    assert row == {**{key: STORED[key] for key in row}, **typed}


def test_a_machine_reads_back_what_changes() -> None:
    state = MachineState(cpu="EPYC", mhz=1.0, temperature_c=2.0, load=3.0)
    assert state.readings() == Readings(1.0, 2.0, 3.0)


def test_a_short_latency_keeps_two_digits() -> None:
    times = [12.345, 0.5, 0.0123, 0.00456, 0.0]
    assert [milliseconds(time) for time in times] == ["12.35", "0.50", "0.012", "0.0046", "0.00"]
