"""What tables say beside their numbers."""

from commands.tables import (
    device_note,
    files_table,
    profile_table,
    single_stream_table,
    speed_note,
    thermal_table,
)


def timed(name: str, p50_ms: float, verdict: str | None) -> dict:
    difference = {"verdict": verdict} if verdict else None
    latency = {"p50_ms": p50_ms, "noise_floor": 0.021, "against_fastest": difference}
    return {"name": name, "latency": [latency]}


def test_files_as_fast_as_the_fastest_are_named() -> None:
    rows = [
        timed("a", 2.1, "no difference"),
        timed("b", 2.0, "no difference"),
        timed("c", 3.0, "slower"),
    ]
    assert speed_note(rows) == "\nfastest: b; no slower: a (noise floor 2.1 %)"
    assert speed_note(rows[1:]) == "\nfastest: b; the others are slower (noise floor 2.1 %)"


def test_nothing_is_said_of_one_file_or_too_few_rounds() -> None:
    assert speed_note([timed("a", 2.0, "no difference")]) == ""
    assert speed_note([timed("a", 2.0, None), timed("b", 3.0, None)]) == ""


def test_a_table_of_a_run_names_the_device_of_its_times() -> None:
    on_board = [{"device": "ssh:board"}, {"device": "local"}]
    assert device_note([{"latency": on_board}, {"latency": []}]) == "\ntimes on ssh:board"
    assert device_note([{"latency": []}]) == ""


def test_a_curve_is_shown_in_fifths_with_its_change_and_warmth() -> None:
    intervals = [
        {"minute": 0.5 * n, "p50_ms": 10.0 + n, "temperature_c": 40.4 + n} for n in range(1, 21)
    ]
    header, line = thermal_table({"a.onnx": {"intervals": intervals}}).splitlines()
    minutes = ["2.0", "4.0", "6.0", "8.0", "10.0"]
    assert header.split() == ["p50", "ms", "at", "minute", *minutes, "change", "%", "°C"]
    # From 11 to 30 ms, 60 degrees at the end.
    assert line.split() == ["a.onnx", "14.00", "18.00", "22.00", "26.00", "30.00", "+172.7", "60"]


def test_operators_have_their_share() -> None:
    operators = [
        {"operator": "Conv", "num_nodes": 3, "ms": 3.0},
        {"operator": "Softmax", "num_nodes": 1, "ms": 1.0},
    ]
    _, *lines = profile_table({"a.onnx": {"operators": operators}}).splitlines()
    assert [line.split() for line in lines] == [
        ["a.onnx", "Conv", "3", "3.000", "75.0"],
        ["a.onnx", "Softmax", "1", "1.000", "25.0"],
    ]


def test_a_stream_is_one_line() -> None:
    stream = {"num_queries": 1024, "seconds": 61.2, "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0}
    _, line = single_stream_table({"a.onnx": stream}).splitlines()
    assert line.split() == ["a.onnx", "1024", "61", "1.00", "2.00", "3.00"]


def test_a_name_is_never_taken_for_markup_or_cut() -> None:
    name = "[bold]my model[/bold] :smile: " + "x" * 200
    row = {"name": name, "file_bytes": 1000, "latency": []}
    assert name in files_table([row])


def measured(name: str, others: dict | None, runtime: dict | None) -> dict:
    delegate = None if others is None else {"others": others}
    latency = [{"p50_ms": 1.0, "p90_ms": 2.0, "delegate": delegate}]
    return {"name": name, "file_bytes": 9000, "latency": latency, "runtime": runtime}


def test_a_file_names_what_it_needs_and_what_xnnpack_leaves_to_slower_code() -> None:
    rows = [
        measured("net-float32.tflite", {}, {"tflite": "2.9"}),
        measured("net-int8.tflite", {"SOFTMAX": 1, "GELU": 18}, {"tflite": "2.9"}),
        measured("net-int8.onnx", None, {"opset": 17, "ir": 8}),
    ]
    header, *lines = files_table(rows).splitlines()
    assert header.split()[-3:] == ["needs", "outside", "XNNPACK"]
    assert lines[0].endswith("TFLite 2.9")
    assert lines[1].endswith("18 GELU, 1 SOFTMAX")
    assert lines[2].endswith("opset 17, IR 8")


def test_the_table_has_no_column_for_operators_that_no_file_has() -> None:
    rows = [measured("a.tflite", {}, None), measured("b.onnx", None, None)]
    assert "XNNPACK" not in files_table(rows)


def test_files_without_a_run_have_no_columns_for_its_accuracy() -> None:
    header, line = files_table([measured("a.tflite", None, {"tflite": "2.9"})]).splitlines()
    assert header.split() == ["file", "KB", "p50", "ms", "p90", "ms", "needs"]
    assert line.split() == ["a.tflite", "9", "1.00", "2.00", "TFLite", "2.9"]


def test_a_column_stays_if_one_file_fills_it() -> None:
    rows = [measured("a.tflite", None, None), measured("b.tflite", None, None)]
    rows[1]["agreement"] = {"agreement_with_source": 0.5}
    header, *lines = files_table(rows).splitlines()
    assert "same as parent" in header
    assert [len(line.split()) for line in lines] == [4, 5]
