"""The probe: its models in this process, and the program that answers requests."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import eval.devices.probe as probe
from configs.errors import StepFailed
from eval.devices.probe import Delegate, ModelFileError, open_model
from eval.devices.registry import DEVICES
from eval.devices.wheels import DESCRIBE

MakeOnnx = Callable[..., Path]


def test_an_onnx_file_is_described_and_answers(
    onnx_file: Path, colours: np.ndarray, expected_probs: np.ndarray
) -> None:
    model = open_model(onnx_file)
    assert (model.runtime, model.batch, model.num_classes) == ("onnxruntime", 1, 4)
    assert (model.input_shape, model.input.dtype) == ((8, 8, 3), "float32")
    assert model.runtime_version
    probs = model.predict(colours.astype("float32"))
    np.testing.assert_allclose(probs, expected_probs, rtol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(("name", "atol"), [("float32", 1e-6), ("int8", 0.02), ("uint8", 0.02)])
def test_tflite_edges_are_quantized_and_back(
    tflite_files: dict[str, Path],
    colours: np.ndarray,
    expected_probs: np.ndarray,
    name: str,
    atol: float,
) -> None:
    # int8 logits have steps of about 4/255 and probabilities steps of 1/256.
    model = open_model(tflite_files[name])
    assert (model.runtime, model.batch, model.num_classes) == ("litert", 1, 4)
    assert (model.input_shape, model.input.dtype) == ((8, 8, 3), name)
    probs = model.predict(colours.astype("float32"))
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs, expected_probs, atol=atol)


def test_a_dynamic_batch_is_executed_one_by_one(
    tflite_files: dict[str, Path],
    make_onnx: MakeOnnx,
    colours: np.ndarray,
    expected_probs: np.ndarray,
) -> None:
    for path in (tflite_files["batch"], make_onnx(["n", 8, 8, 3])):
        model = open_model(path)
        assert (model.batch, model.num_classes) == (1, 4)
        probs = model.predict(colours.astype("float32"))
        np.testing.assert_allclose(probs, expected_probs, rtol=1e-5)


def test_a_static_batch_that_does_not_divide_is_filled_up(
    make_onnx: MakeOnnx, colours: np.ndarray, expected_probs: np.ndarray
) -> None:
    model = open_model(make_onnx([2, 8, 8, 3]))
    assert model.batch == 2
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


def test_no_images_get_no_answers(onnx_file: Path) -> None:
    assert open_model(onnx_file).predict(np.zeros((0, 8, 8, 3), "float32")).shape == (0, 4)


def test_images_of_another_size_are_refused(onnx_file: Path) -> None:
    with pytest.raises(ValueError, match=r"\(9, 9, 3\); expected \(8, 8, 3\)"):
        open_model(onnx_file).predict(np.zeros((1, 9, 9, 3), "float32"))


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_an_onnx_file_with_channels_first_gets_its_images_so(
    make_onnx: MakeOnnx, colours: np.ndarray, expected_probs: np.ndarray, batch: int | str
) -> None:
    model = open_model(make_onnx([batch, 3, 8, 8], axes=(2, 3)))
    assert model.input_shape == (8, 8, 3)
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


def test_a_file_for_images_of_any_size_takes_the_size_of_the_caller(
    make_onnx: MakeOnnx, colours: np.ndarray, expected_probs: np.ndarray
) -> None:
    file = make_onnx([1, "height", "width", 3])
    model = open_model(file, image_size=8)
    np.testing.assert_allclose(model.predict(colours.astype("float32")), expected_probs, rtol=1e-5)


def test_a_file_for_images_of_another_size_is_refused(onnx_file: Path) -> None:
    with pytest.raises(ModelFileError, match="expected 16 x 16 pixels"):
        open_model(onnx_file, image_size=16)


@pytest.mark.parametrize(
    ("shape", "axes", "reason"),
    [
        ([1, 8, 8, "channels"], (1, 2), "expected three channels"),
        ([1, "height", "width", 3], (1, 2), "without a fixed height and width"),
        ([1, 8, 3], (1,), "expected \\(batch, height, width, 3\\)"),
    ],
)
def test_an_onnx_input_that_is_no_rgb_image_is_refused(
    make_onnx: MakeOnnx, shape: list[Any], axes: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        open_model(make_onnx(shape, axes=axes))


def test_an_output_that_is_an_image_is_refused(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 8, 8, 3])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 8, 8, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["mask"])], "g", [image], [mask])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match=r"output of shape .* expected \(batch, classes\)"):
        open_model(tmp_path / "a.onnx")


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"just some text, renamed" * 9, bytes(range(256)) * 9])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"no TFLite model|no ONNX model|empty"):
        open_model(path)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_model_is_refused(
    tflite_files: dict[str, Path], onnx_file: Path, tmp_path: Path, part: float
) -> None:
    for source in (tflite_files["int8"], onnx_file):
        whole = source.read_bytes()
        path = tmp_path / source.name
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ModelFileError):
            open_model(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"ends in \.keras; expected \.tflite or \.onnx"):
        open_model(tmp_path / "model.keras")


def serve(path: Path, requests: list[dict[str, Any]], *options: str) -> tuple[int, list[str]]:
    """The exit code and the lines of a probe that runs alone, with nothing of this project."""
    result = subprocess.run(
        [sys.executable, "-P", probe.__file__, str(path), "--num-threads", "1", *options],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=path.parent,
    )
    return result.returncode, result.stdout.splitlines()


def test_as_a_program_it_times_runs_and_reports_its_memory(
    onnx_file: Path, tflite_files: dict[str, Path]
) -> None:
    for path in (onnx_file, tflite_files["float32"]):
        code, lines = serve(path, [{"run": 5}, {"run": 2}, {"quit": True}])
        assert code == 0
        ready, five, two, last = map(json.loads, lines)
        assert ready["ready"] is True
        assert ready["batch"] == 1
        assert {"load_ms", "first_ms", "runtime", "runtime_version"} <= set(ready)
        assert (len(five["times_ms"]), len(two["times_ms"])) == (5, 2)
        assert min(five["times_ms"]) > 0
        # An interpreter with numpy and a runtime: tens of MiB, not the hundreds of this process.
        assert 10 < last["peak_rss_mib"] < 300


def test_as_a_program_it_ends_with_its_caller(onnx_file: Path) -> None:
    assert serve(onnx_file, [])[0] == 0


def test_as_a_program_it_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_text("no model at all")
    code, lines = serve(tmp_path / "a.tflite", [])
    assert code == 1
    assert "no TFLite model" in json.loads(lines[0])["error"]
    code, lines = serve(tmp_path / "missing.onnx", [])
    assert code == 1
    assert "missing.onnx" in json.loads(lines[0])["error"]


def test_an_answer_begins_with_the_marker_on_a_line_of_its_own(onnx_file: Path) -> None:
    _, lines = serve(onnx_file, [{"run": 1}, {"quit": True}], "--marker", "MARK")
    assert lines[::2] == [""] * 3  # other output may lack the end of its last line
    ready, times, _ = (json.loads(line.removeprefix("MARK ")) for line in lines[1::2])
    assert ready["runtime"] == "onnxruntime"
    assert len(times["times_ms"]) == 1


@pytest.mark.parametrize("source", [Path(probe.__file__).read_text(), DESCRIBE])
def test_what_runs_on_a_device_is_written_in_the_python_of_older_boards(source: str) -> None:
    assert ast.parse(source, feature_version=(3, 8)).body  # raises SyntaxError for newer Python


def test_reopened_it_is_a_new_process_that_serves_the_same_pipes(
    onnx_file: Path, tflite_files: dict[str, Path]
) -> None:
    for path in (onnx_file, tflite_files["int8"]):
        with DEVICES["local"]() as here:
            session = here.open(path, num_threads=1)
        before = session.ready
        assert len(session.run(2)) == 2
        session.reopen()
        assert session.ready is not before
        assert session.ready.load_ms != before.load_ms
        assert len(session.run(3)) == 3
        assert 10 < session.close().peak_rss_mib < 300


def test_the_operators_that_xnnpack_executes_are_counted(
    onnx_file: Path, tflite_files: dict[str, Path]
) -> None:
    assert open_model(onnx_file).delegate is None
    delegate = open_model(tflite_files["float32"]).delegate
    # A mean, a fully connected layer and a softmax: XNNPACK executes them all.
    assert delegate == Delegate(
        "XNNPACK", num_partitions=1, num_ops=3, num_delegated_ops=3, others={}
    )


class Nodes:
    """An interpreter of four operators in a row; a delegate replaces the second and third."""

    def _get_ops_details(self) -> list[dict[str, Any]]:
        nodes = [("CONV", [0], [1]), ("RELU", [1], [2]), ("ADD", [2, 1], [3]), ("ODD", [3], [4])]
        nodes.append(("DELEGATE", [1], [3]))
        return [
            {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}
            for index, (name, inputs, outputs) in enumerate(nodes)
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 4}]


def test_operators_that_no_delegate_replaces_are_named() -> None:
    delegate = probe._delegate(Nodes())
    others = {"CONV": 1, "ODD": 1}
    assert delegate == Delegate("XNNPACK", 1, num_ops=4, num_delegated_ops=2, others=others)


def test_the_state_of_a_board_is_read_where_linux_keeps_it(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    files = {
        "proc/cpuinfo": "processor: 0\nFeatures : fp asimd asimddp\nprocessor: 1\nFeatures: fp\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/loadavg": "0.25 0.10 0.05 1/100 1234\n",
        f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "ondemand\n",
        f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "1800000\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/temp": "51000\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    state = probe.machine_state(tmp_path)
    assert state.cpu == "Raspberry Pi 4 Model B Rev 1.4"
    assert state.isa == ("asimd", "asimddp")
    assert (state.governor, state.mhz) == ("ondemand", 1800.0)
    assert (state.temperature_c, state.load) == (51.0, 0.25)


def test_what_a_machine_does_not_say_is_unknown(tmp_path: Path) -> None:
    state = probe.machine_state(tmp_path)
    assert (state.isa, state.governor, state.mhz) == (None, None, None)
    assert (state.temperature_c, state.load) == (None, None)
    assert state.cpu


def test_a_process_is_pinned_to_the_cores_it_is_given(onnx_file: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with DEVICES["local"](cores=[core]) as here:
        session = here.open(onnx_file, num_threads=1)
    assert session.ready.state.cores == (core,)
    session.reopen()
    assert session.state().cores == (core,)
    session.close()
    with (
        DEVICES["local"](cores=[4095]) as here,
        pytest.raises(StepFailed, match=r"cores \[4095\] do not all exist; expected some of .*\d"),
    ):
        here.open(onnx_file, num_threads=1)


def test_openvino_gives_the_answers_of_the_usual_runtimes(
    onnx_file: Path,
    make_onnx: MakeOnnx,
    tflite_files: dict[str, Path],
    colours: np.ndarray,
    expected_probs: np.ndarray,
) -> None:
    pytest.importorskip("openvino")
    first = make_onnx(["batch", 3, 8, 8], axes=(2, 3))
    for path in (onnx_file, first, tflite_files["float32"]):
        model = open_model(path, openvino=True)
        assert (model.runtime, model.batch, model.num_classes) == ("openvino", 1, 4)
        probs = model.predict(colours.astype("float32"))
        np.testing.assert_allclose(probs, expected_probs, rtol=1e-5)
    (first.parent / "a.onnx").write_text("text")
    with pytest.raises(ModelFileError, match="OpenVINO cannot read it"):
        open_model(first.parent / "a.onnx", openvino=True)


def test_a_device_can_use_openvino(onnx_file: Path) -> None:
    pytest.importorskip("openvino")
    with DEVICES["local"](openvino=True) as here:
        session = here.open(onnx_file, num_threads=1)
    assert session.ready.runtime == "openvino"
    session.reopen()
    assert len(session.run(2)) == 2
    session.close()


def test_a_lack_of_memory_is_no_fault_of_the_file(
    onnx_file: Path, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(onnx_file)

    def run_out(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(model.output), "decoded", run_out)
    with pytest.raises(MemoryError):
        model.predict(colours.astype("float32"))
