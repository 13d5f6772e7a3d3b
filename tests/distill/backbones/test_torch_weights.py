import os
import pickle

import numpy as np
import pytest

from configs.errors import UserError
from distill.backbones.weights.torch_file import read_torch_weights
from torch_files import NEW_STATE_DICT, number, save_zip, tensor, text, write_file


def test_a_tensor_is_read(tmp_path):
    path = write_file(tmp_path / "w.pth", NEW_STATE_DICT + tensor("a", (2, 3), (3, 1)))
    arrays = read_torch_weights(path)
    assert list(arrays) == ["a"]
    np.testing.assert_array_equal(arrays["a"], np.array([[0, 1, 2], [3, 4, 5]], "float32"))


def test_a_transposed_slice_of_a_storage_is_read(tmp_path):
    body = NEW_STATE_DICT + tensor("a", (2, 2), (1, 2), offset=2)
    # Numbers 2, 3, 4, 5; down a column is one step, along a row two.
    arrays = read_torch_weights(write_file(tmp_path / "w.pth", body))
    np.testing.assert_array_equal(arrays["a"], np.array([[2, 4], [3, 5]], "float32"))


@pytest.mark.parametrize(
    "call",
    [
        lambda victim: b"cposix\nsystem\n(" + text(f"touch {victim}") + b"tR",
        lambda victim: b"cbuiltins\neval\n(" + text(f"open('{victim}', 'w')") + b"tR",
        lambda victim: b"(" + text(f"touch {victim}") + b"ios\nsystem\n",
        lambda victim: text("os") + text("mkdir") + b"\x93(" + text(str(victim)) + b"tR",
        lambda victim: b"ctorch._utils\n_rebuild_tensor\n)R",
        lambda victim: b"ccollections\nCounter\n)R",
    ],
    ids=["system", "eval", "INST", "STACK_GLOBAL", "other function of torch", "other collection"],
)
def test_a_pickle_that_asks_for_code_is_refused_and_does_not_run(tmp_path, call):
    victim = tmp_path / "victim"
    path = write_file(tmp_path / "w.pth", call(victim) + b"0" + NEW_STATE_DICT)
    with pytest.raises(UserError, match=r"refused: it asks for .*malicious"):
        read_torch_weights(path)
    assert not victim.exists()


def test_the_malicious_pickle_of_these_tests_would_run_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    pickle.loads(b"\x80\x02cos\nmkdir\n(" + text(str(victim)) + b"tR.")
    assert victim.is_dir()


def test_a_reduce_method_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "victim"),)

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(UserError, match=r"asks for posix.mkdir|asks for nt.mkdir"):
        read_torch_weights(path)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "state", [b"}" + text("__class__") + number(1) + b"s", b"N}" + text("x") + number(1) + b"s\x86"]
)
def test_a_pickle_cannot_change_the_stand_ins(tmp_path, state):
    body = b"ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b0" + NEW_STATE_DICT
    with pytest.raises(UserError, match="not a PyTorch weights file"):
        read_torch_weights(write_file(tmp_path / "w.pth", body))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((7,), (1,), 0), ((2, 3), (4, 1), 0), ((2,), (1,), 5), ((2,), (1,), -1), ((-1,), (1,), 0)],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, shape, strides, offset):
    body = NEW_STATE_DICT + tensor("a", shape, strides, offset=offset)
    with pytest.raises(UserError, match="a tensor"):
        read_torch_weights(write_file(tmp_path / "w.pth", body))


def test_a_storage_larger_than_the_file_is_refused(tmp_path):
    body = NEW_STATE_DICT + tensor("a", (7,), (1,), num_elements=7)
    with pytest.raises(UserError, match="storage 7 should hold 7 numbers"):
        read_torch_weights(write_file(tmp_path / "w.pth", body))


@pytest.mark.parametrize("num_bytes", [0, 10, 30, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, num_bytes):
    path = write_file(tmp_path / "w.pth", NEW_STATE_DICT + tensor("a", (2, 3), (3, 1)))
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(UserError, match="not a PyTorch weights file, or is damaged"):
        read_torch_weights(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x89HDF\r\n\x1a\n", bytes(1000)])
def test_a_file_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a PyTorch weights file"):
        read_torch_weights(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        read_torch_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("opcodes", [b"X\0\0\0\x80", b"}r\xff\xff\xff\x7f"])
def test_a_pickle_that_asks_for_gigabytes_is_refused(tmp_path, opcodes: bytes) -> None:
    for path in (
        save_zip(tmp_path / "new.pth", {}, body=opcodes),
        write_file(tmp_path / "legacy.pth", opcodes),
    ):
        with pytest.raises(UserError, match="is damaged"):
            read_torch_weights(path)
