"""Tensors out of files of weights, `.safetensors` and what `torch.save` wrote, without PyTorch and without running any code.

A `.pth` holds a pickle, a program for a stack machine that can call anything. The machine here has no calls at all: of its
instructions it knows those that plain containers need, and of names the few that stand for tensors, as data.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from medjax.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before 1.6
_MOST = 2**40  # items of a side or a stride
_BFLOAT16 = "bfloat16"  # NumPy has no such dtype
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": _BFLOAT16, "BOOL": "|b1"} | {
    f"{kind}{8 * size}": f"<{code}{size}" for kind, code in (("I", "i"), ("U", "u")) for size in (1, 2, 4, 8)
}
_STORAGES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": _BFLOAT16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "<i1",
    "Byte": "|u1",
    "Bool": "|b1",
}
_CONTAINERS = {"collections.OrderedDict", "__builtin__.set", "builtins.set"}
_REBUILD = {f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")}
# Classes of a whole network, pickled as an object: only what lies in their instances is looked at.
_NETWORKS = ("torch.nn.", "torchvision.models.", "torchxrayvision.models.", "timm.")
_CUT = "the file is cut short or damaged\ncopy or download it again"


class _Refused(Exception):
    """What is wrong and how to mend it, without the file's name."""


class _Name(NamedTuple):
    """A global that the pickle names, MODULE.NAME; never imported."""

    text: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    items: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Object:
    """An instance of a network's class: its name and its attributes."""

    def __init__(self, name: str):
        self.name = name
        self.state: Any = None


def read_tensors(path: str | Path) -> tuple[Any, str]:
    """What a file of weights holds.

    Args:
      path: `.safetensors`, or what `torch.save` writes now (zip) or wrote before PyTorch 1.6; told by content.

    Returns:
      (tree, note): nested dicts and lists, with NumPy arrays where tensors were (floats of 16 bits as float32), and None for
      all that is neither; the note is one line on how it was stored, or "".

    Raises:
      InputError: it is none of these, is cut short, declares more than it holds, or names anything but tensors and containers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            start = file.read(16)
            file.seek(0)
            if start[:4] == b"PK\x03\x04":
                return _plain(*_read_zip(file))
            if start[:2] == b"\x80\x02" and len(start) > 14 and struct.pack("<Q", _LEGACY_MAGIC & (2**64 - 1)) in start:
                return _plain(*_read_legacy(file, size))
            if len(start) > 8 and start[8:9] == b"{":
                return _read_safetensors(file, size), ""
        raise _Refused(
            f"holds no weights that can be read (it begins with {start[:8]!r})\ngive a .safetensors, or a state dict saved by "
            "torch.save"
        )
    except _Refused as why:
        raise InputError(f"{path}: {why}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})\ngive a file of weights") from None


def _read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """Length of the header, uint64; the header, JSON of {name: dtype, shape, data_offsets}; the data."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise _Refused(_CUT)
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = [(n, str(e["dtype"]), tuple(e["shape"]), *e["data_offsets"]) for n, e in header.items()]
        whole = all(len(e) == 5 for e in entries) and all(
            type(k) is int and 0 <= k < _MOST for _, _, shape, *ends in entries for k in (*shape, *ends)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _Refused("its header is not that of a .safetensors file\nwrite it again") from None
    data = file.read()
    if not whole or sum(end - begin for *_, begin, end in entries) > len(data):
        raise _Refused(f"its tensors are larger than the file: {_CUT}")
    found = {}
    for name, kind, shape, begin, end in entries:
        dtype = _SAFETENSORS.get(kind)
        if dtype is None:
            raise _Refused(f"tensor {name!r} is of type {kind!r}\nconvert it to float32")
        if end > len(data) or end - begin != math.prod(shape) * _item_size(dtype):
            raise _Refused(f"tensor {name!r} does not lie in the file as declared: {_CUT}")
        found[name] = _decode(data[begin:end], dtype).reshape(shape)
    return found


def _read_zip(file: BinaryIO) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """ARCHIVE/data.pkl and, a file each, ARCHIVE/data/KEY."""
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise _Refused(_CUT) from None
    program = next((n for n in members if n.count("/") == 1 and n.endswith("/data.pkl")), None)
    if program is None:
        raise _Refused("is a zip archive, but not one of torch.save\ngive a state dict saved by torch.save")
    folder = program.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise _Refused("is a TorchScript program\nsave its weights in PyTorch: torch.save(model.state_dict(), NEW)")

    def read(name: str) -> bytes:
        if name not in members:
            raise _Refused(_CUT)
        if members[name].compress_type != zipfile.ZIP_STORED:  # torch.save never does, and a bomb would
            raise _Refused("is a compressed archive, which torch.save does not write\nsave it again in PyTorch")
        try:
            return archive.read(members[name])  # its checksum is compared
        except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, NotImplementedError):
            raise _Refused(_CUT) from None

    if f"{folder}byteorder" in members and read(f"{folder}byteorder") != b"little":
        raise _Refused("was written on a big-endian machine\nsave it again on another")

    def storage(wanted: _Storage) -> np.ndarray:
        return _exactly(read(f"{folder}data/{wanted.key}"), wanted)

    return _run(io.BytesIO(read(program))), storage


def _read_legacy(file: BinaryIO, size: int) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Pickles of magic number, protocol, machine, object and storages' keys; then each storage behind its length."""
    magic, protocol, machine = _run(file), _run(file), _run(file)
    if (magic, protocol) != (_LEGACY_MAGIC, 1001) or not isinstance(machine, dict):
        raise _Refused(_CUT)
    if machine.get("little_endian") is not True:
        raise _Refused("was written on a big-endian machine\nsave it again on another")
    declared: dict[str, _Storage] = {}
    tree, keys = _run(file, declared), _run(file)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(declared):
        raise _Refused(_CUT)
    held = {}
    for key in keys:
        wanted = declared[key]
        count, data = file.read(8), file.read(min(wanted.items * _item_size(wanted.dtype), size))
        if len(count) < 8 or struct.unpack("<q", count) != (wanted.items,):
            raise _Refused(_CUT)
        held[wanted] = _exactly(data, wanted)

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted not in held:  # declared twice, in different ways
            raise _Refused(_CUT)
        return held[wanted]

    return tree, storage


def _item_size(dtype: str) -> int:
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


def _exactly(data: bytes, wanted: _Storage) -> np.ndarray:
    if len(data) != wanted.items * _item_size(wanted.dtype):
        raise _Refused(f"storage {wanted.key!r} does not have the size declared: {_CUT}")
    return _decode(data, wanted.dtype)


def _decode(data: bytes, dtype: str) -> np.ndarray:
    if dtype == _BFLOAT16:  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    found = np.frombuffer(data, dtype)
    return found.astype(np.float32) if dtype == "<f2" else found


def _plain(tree: Any, storage: Callable[[_Storage], np.ndarray]) -> tuple[Any, str]:
    """The tree with arrays for tensors and dicts for networks, whose buffers and parameters are named as PyTorch does."""
    held: dict[_Storage, np.ndarray] = {}

    def array(tensor: _Tensor) -> np.ndarray:
        source, offset, shape, strides = tensor
        numbers = (offset, *shape, *strides)
        if not all(type(k) is int and 0 <= k < _MOST for k in numbers) or len(shape) != len(strides) or len(shape) > 8:
            raise _Refused(f"a tensor has impossible sizes: {_CUT}")
        size = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides)) if size else 0
        if size > source.items or last >= max(source.items, 1):
            raise _Refused(f"a tensor reaches beyond its storage: {_CUT}")
        if source not in held:
            held[source] = storage(source)
        if not size:
            return np.zeros(shape, held[source].dtype)
        items = held[source][offset:]  # a view: what shares a storage is held once
        return np.lib.stride_tricks.as_strided(items, shape, [k * items.itemsize for k in strides], writeable=False)

    whole = tree.name if isinstance(tree, _Object) else ""
    return _walk(tree, array), f"the file holds a whole network, {whole}; its tensors were taken" if whole else ""


def _walk(tree: Any, of_tensor: Callable[[_Tensor], Any]) -> Any:
    """The tree with `of_tensor` of each tensor, None for what is no tensor; each container is visited once."""
    seen: dict[int, Any] = {}

    def visit(x: Any, depth: int) -> Any:
        if depth > 100:
            raise _Refused("its containers are nested too deeply\ngive a plain state dict")
        if isinstance(x, _Tensor):
            return of_tensor(x)
        if not isinstance(x, dict | list | tuple | _Object) or isinstance(x, _Storage | _Name):
            return None
        if id(x) not in seen:
            seen[id(x)] = None  # where it holds itself
            if isinstance(x, _Object):
                state = x.state if isinstance(x.state, dict) else {}
                parts = [state.get(kind) or {} for kind in ("_parameters", "_buffers", "_modules")]
                items = {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
                seen[id(x)] = {k: visit(v, depth + 1) for k, v in items.items()}
            elif isinstance(x, dict):
                seen[id(x)] = {k: visit(v, depth + 1) for k, v in x.items()}
            else:
                seen[id(x)] = [visit(v, depth + 1) for v in x]
        return seen[id(x)]

    return visit(tree, 0)


class _Mark:
    """Where a container's items begin on the stack."""


_MARK = _Mark()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    """What one pickle describes, as dicts, lists, numbers, text, `_Tensor` and `_Object`; the file is left behind it.

    Args:
      file: at the pickle's beginning.
      storages: gets every storage that it names.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    try:
        for opcode, arg, _ in pickletools.genops(file):
            name = opcode.name
            if name in _LITERALS:
                stack.append(arg)
            elif name in _VALUES:
                stack.append(_VALUES[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _FIXED_TUPLES:
                count = _FIXED_TUPLES[name]
                stack[-count:] = [tuple(stack[-count:])]
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name == "LIST":
                stack.append(since_mark())
            elif name == "DICT":
                items = since_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            elif name in ("SETITEM", "SETITEMS"):
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            elif name in ("APPEND", "APPENDS", "ADDITEMS"):
                items = [stack.pop()] if name == "APPEND" else since_mark()
                stack[-1].extend(items)
            elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[arg])
            elif name == "GLOBAL":
                stack.append(_named(str(arg).replace(" ", ".", 1)))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_named(f"{module}.{attribute}"))
            elif name == "BINPERSID":
                stack.append(_persistent(stack.pop()))
                if storages is not None and isinstance(stack[-1], _Storage):
                    storages[stack[-1].key] = stack[-1]
            elif name in ("REDUCE", "NEWOBJ"):
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Object):
                    stack[-1].state = state
            elif name == "POP":
                stack.pop()
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise _Refused(f"its pickle has the instruction {name}, which weights do not need\nsave a plain state dict")
    except _Refused:
        raise
    except Exception:  # a damaged program fails in any way, in pickletools as well as here
        raise _Refused(_CUT) from None
    raise _Refused(_CUT)


def _named(text: str) -> _Name:
    kind = text.removeprefix("torch.").removesuffix("Storage")
    known = text in _CONTAINERS | _REBUILD or (text == f"torch.{kind}Storage" and kind in _STORAGES)
    if not known and not text.startswith(_NETWORKS) and text != "torch.Size":
        raise _Refused(
            f"names {text}, which is no tensor: nothing of the file was run\n"
            "if you trust it, save the tensors alone in PyTorch: torch.save(model.state_dict(), NEW)"
        )
    return _Name(text)


def _persistent(arguments: Any) -> Any:
    """A storage of the file, or in old files a network's class beside its source."""
    if arguments[0] == "module":
        return arguments[1]
    kind, of, key, _, count, *view = arguments
    dtype = _STORAGES.get(of.text.removeprefix("torch.").removesuffix("Storage"))
    if kind != "storage" or dtype is None or type(count) is not int or count < 0 or any(v is not None for v in view):
        raise _Refused("a tensor is stored in a way that is not known\nsave it again with a newer PyTorch")
    return _Storage(str(key), dtype, count)


def _made(of: Any, arguments: tuple) -> Any:
    """What the named function would give of the arguments, as data."""
    name = of.text
    if name in _CONTAINERS:
        items = arguments[0] if arguments else []
        return dict(items) if name.endswith("Dict") else list(items)
    if name == "torch.Size":
        return tuple(arguments[0])
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name in _REBUILD:
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage):
            raise _Refused(_CUT)
        return _Tensor(storage, offset, tuple(shape), tuple(strides))
    if name.startswith(_NETWORKS):
        return _Object(name)
    raise _Refused(f"calls {name}\nsave a plain state dict")
