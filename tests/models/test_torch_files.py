"""Files of weights: the tensors PyTorch wrote, nothing run, and a clear word on what is broken or hostile."""

import contextlib
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from medjax.errors import InputError
from medjax.models.torch_files import read_tensors
from medjax.models.weights import read_state_dict

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_zip(path, program, storages=(), compression=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, data in [*dict(storages).items(), *more.items()]:
            archive.writestr(f"archive/{key}", data)
    return path


def tensor_program(*, count=6, offset=0, shape=(2, 3), strides=(3, 1), kind=b"FloatStorage", key=b"0"):
    """A pickle of {"w": tensor} as torch.save writes it, opcode by opcode."""

    def number(n):
        return pickle.dumps(n, 2)[2:-1]

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(b):
        return b"X" + struct.pack("<I", len(b)) + b

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu") + number(count) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"t"
    return b"\x80\x02}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def refused(path, words):
    with pytest.raises(InputError, match=words) as error:
        read_state_dict(path)
    assert path.name in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_a_zip_written_by_hand_holds_what_it_says(tmp_path):
    path = write_zip(tmp_path / "w.pth", tensor_program(), {"data/0": FLOATS.tobytes()})
    assert np.array_equal(read_state_dict(path)["w"], FLOATS)
    turned = write_zip(tmp_path / "t.pth", tensor_program(shape=(3, 2), strides=(1, 3)), {"data/0": FLOATS.tobytes()})
    assert np.array_equal(read_state_dict(turned)["w"], FLOATS.T)
    part = write_zip(tmp_path / "p.pth", tensor_program(shape=(2,), strides=(2,), offset=3), {"data/0": FLOATS.tobytes()})
    assert np.array_equal(read_state_dict(part)["w"], FLOATS.ravel()[[3, 5]])


@pytest.mark.parametrize(
    "program",
    [
        {"offset": 1},
        {"strides": (4, 1)},
        {"shape": (2, 4), "strides": (1, 1)},
        {"shape": (10**6, 10**6), "strides": (0, 0)},
        {"shape": (2**62, 0), "strides": (0, 0)},
        {"shape": (1, 6), "strides": (2**62, 1)},
        {"strides": (-3, 1)},
        {"count": 7},
        {"count": 2**62},
        {"key": b"../0"},
    ],
    ids=str,
)
def test_tensors_that_reach_beyond_the_file_are_refused(program, tmp_path):
    refused(write_zip(tmp_path / "w.pth", tensor_program(**program), {"data/0": FLOATS.tobytes()}), "cut short or damaged")


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_is_read_without_it(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    whole = torch.randn(4, 5)
    tensors = {
        "plain": whole,
        "part": whole[1:3, ::2],
        "turned": whole.t(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(300).bfloat16(),
        "double": torch.randn(2).double(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "w.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    found = read_state_dict(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        wide = tensor.detach().float() if tensor.dtype in (torch.half, torch.bfloat16) else tensor.detach()
        assert found[name].dtype == wide.numpy().dtype, name
        assert np.array_equal(found[name], wide.numpy()), name
        assert found[name].shape == tuple(tensor.shape)


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_and_whole_networks_are_unwrapped(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    import warnings

    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU())
    wanted = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    wanted = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    checkpoint = {"epoch": 3, "state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "loss": 0.25}
    for i, content in enumerate((checkpoint, module)):
        path = tmp_path / f"{i}.pth"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        found = read_state_dict(path)
        assert set(found) == set(wanted)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert "whole network" in read_tensors(path)[1]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [(os.system, "touch {}", "system"), (eval, "open({!r}, 'w')", "eval"), (getattr, (os, "system"), "getattr")],
    ids=["system", "eval", "getattr"],
)
def test_hostile_pickles_are_named_and_not_run(function, arguments, name, protocol, tmp_path):
    mark = tmp_path / "mark"
    call = Hostile(function, arguments.format(str(mark))) if isinstance(arguments, str) else Hostile(getattr, "x", "y")
    path = write_zip(tmp_path / "w.pth", pickle.dumps({"w": call}, protocol))
    assert name in refused(path, "no tensor: nothing of the file was run")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x02cmedjax.models.weights\nsay\nX\x01\x00\x00\x00x\x85R.", "names medjax.models.weights.say"),
        (b"\x80\x02ctorch.hub\nload\n)R.", "names torch.hub.load"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.", "names torch.storage._load_from_bytes"),
        (b"(Vtouch x\nios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01)R.", "instruction EXT1"),
        (b"\x80\x02r\xff\xff\xff\xff.", "cut short or damaged"),  # LONG_BINPUT of an empty stack, at 2**32 - 1
        (b"\x80\x02}r\xff\xff\xff\xff.", "no tensors by name"),
        (b"\x80\x02" + b"(" * 5 + b".", "no tensors by name|damaged"),
        (b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".", "nested too deeply"),
        (b"", "cut short or damaged"),
        (b"\x80\x02}", "cut short or damaged"),
    ],
)
def test_programs_that_weights_do_not_need_are_refused(program, words, tmp_path):
    refused(write_zip(tmp_path / "w.pth", program), words)


def test_archives_that_are_not_torch_s_are_refused(tmp_path):
    data = {"data/0": FLOATS.tobytes()}
    refused(write_zip(tmp_path / "a.pth", tensor_program(), data, zipfile.ZIP_DEFLATED), "compressed archive")
    refused(write_zip(tmp_path / "b.pth", tensor_program(), data, byteorder="big"), "big-endian")
    refused(write_zip(tmp_path / "c.pth", tensor_program(), data, **{"constants.pkl": b""}), "TorchScript")
    with zipfile.ZipFile(tmp_path / "d.pth", "w") as archive:
        archive.writestr("words.txt", "x")
    refused(tmp_path / "d.pth", "not one of torch.save")
    broken = write_zip(tmp_path / "e.pth", tensor_program(), data).read_bytes()
    (tmp_path / "e.pth").write_bytes(broken.replace(FLOATS.tobytes(), FLOATS.tobytes()[::-1]))
    refused(tmp_path / "e.pth", "cut short or damaged")
    for name, content in (("f.pth", b""), ("g.pth", b"<!DOCTYPE html><html>"), ("h.safetensors", b"\x00" * 40)):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "no weights that can be read")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused_or_whole(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"w": torch.from_numpy(FLOATS.copy()), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    assert np.array_equal(read_state_dict(path)["w"], FLOATS)
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"w\.pth"):
            read_state_dict(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):  # and nothing else; a flipped bit of the archive's own fields may do no harm
            read_state_dict(path)


def test_safetensors_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"a.weight": FLOATS, "b": np.arange(4), "c": FLOATS.astype(np.float16), "d": np.zeros((0, 2), np.float64)}
    library.save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    found = read_state_dict(tmp_path / "w.safetensors")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert np.array_equal(found[name], tensor)
        assert found[name].dtype == (np.float32 if tensor.dtype == np.float16 else tensor.dtype)


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    upper = (FLOATS.view("<u4") >> 16).astype("<u2")
    header = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
    found = read_state_dict(write_safetensors(tmp_path / "w.safetensors", header, upper.tobytes()))["w"]
    assert np.array_equal(found.view("<u4"), upper.astype("<u4") << 16)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"data_offsets": [0, 32]}, "larger than the file"),
        ({"data_offsets": [4, 28]}, "not lie in the file"),
        ({"data_offsets": [0, 20]}, "not lie in the file"),
        ({"data_offsets": [-24, 0]}, "larger than the file"),
        ({"data_offsets": [0]}, "larger than the file"),
        ({"shape": [2**50, 0]}, "larger than the file"),
        ({"shape": [True, 6]}, "larger than the file"),
        ({"dtype": "F8_E4M3"}, "of type 'F8_E4M3'"),
        ({"shape": None}, "not that of a .safetensors"),
    ],
    ids=str,
)
def test_safetensors_that_declare_more_than_they_hold_are_refused(entry, words, tmp_path):
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | entry}
    refused(write_safetensors(tmp_path / "w.safetensors", header, FLOATS.tobytes()), words)


def test_safetensors_with_a_header_that_is_too_long_or_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**60) + b'{"w": 1}')
    refused(tmp_path / "a.safetensors", "cut short or damaged")
    refused(write_safetensors(tmp_path / "b.safetensors", {}, b""), "no tensors by name")
