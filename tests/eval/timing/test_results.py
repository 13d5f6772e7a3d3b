from pathlib import Path

from configs.artifacts import file_sha256, write_json
from configs.records import to_json
from configs.run_dir import RunDir
from eval.timing.results import latency_path, load_latency
from support import latency_of


def test_first_rows_are_of_one_device(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    files = ["a.tflite", "b.onnx"]
    for name in files:
        run.file(name).parent.mkdir(exist_ok=True)
        run.file(name).write_text(name)

    def timed(device: str, names: list[str]) -> None:
        digests = {name: file_sha256(run.file(name)) for name in names}
        latency = {name: to_json(latency_of(1.0, device=device)) for name in names}
        latency_path(run, device).parent.mkdir(exist_ok=True)
        write_json(latency_path(run, device), {"inputs": {"files": digests}, "latency": latency})

    def devices_of(*devices: str) -> dict[str, list[str]]:
        rows = load_latency(run, list(devices), files)
        return {name: [latency.device for latency in of_file] for name, of_file in rows.items()}

    # A phone runs no ONNX files: what is compared comes from the device that ran all.
    timed("android", files[:1])
    timed("local", files)
    assert devices_of("android", "local") == {"a.tflite": ["local", "android"], "b.onnx": ["local"]}
    # Where none did, the first counts and what it did not time was not timed.
    assert devices_of("android") == {"a.tflite": ["android"]}
    run.file("b.onnx").write_text("written anew")
    assert devices_of("local", "android") == {"a.tflite": ["local", "android"]}
