"""Parts of .npy files: appended to while the length is not known, cut short, and their space on the disk taken beforehand."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError


def cut(path: Path, array: np.ndarray, n: int) -> None:
    """Shorten an .npy file to its first n rows in place."""
    with open(path, "r+b") as handle:
        start = _write_header(handle, array.dtype, (n, *array.shape[1:]))
        handle.truncate(start + n * array[:1].nbytes)


def _write_header(handle: Any, dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Write an .npy header anew, as long as it was: NumPy leaves room in it for any length. Returns where the data begins."""
    handle.seek(0)
    np.lib.format.read_magic(handle)
    np.lib.format.read_array_header_1_0(handle)
    start = handle.tell()
    handle.seek(0)
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, about)
    if handle.tell() != start:
        raise RuntimeError(f"{handle.name}: its header has changed in length from {start} to {handle.tell()}")
    return start


class Appended:
    """An .npy file of one axis that arrays of any shape are appended to."""

    def __init__(self, path: Path, dtype: np.dtype):
        np.save(path, np.empty(0, dtype), allow_pickle=False)
        self.dtype = dtype
        self.shapes: list[tuple[int, ...]] = []
        self.handle = open(path, "r+b")  # noqa: SIM115, it stays open until `close`
        self.handle.seek(0, os.SEEK_END)

    def append(self, array: np.ndarray) -> None:
        """Write one more array behind the others."""
        try:
            self.handle.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise _no_space(error, Path(self.handle.name), array.nbytes) from error
        self.shapes.append(array.shape)

    def close(self) -> np.ndarray:
        """Finish the file; the shapes int64 [n, axes]."""
        shapes = np.array(self.shapes, np.int64)
        _write_header(self.handle, self.dtype, (int(shapes.prod(1).sum()),))
        self.handle.close()
        return shapes


def reserve(path: Path) -> None:
    """Take a sparse file's blocks now: writing to a page that a full disk cannot give kills the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _no_space(error, path, path.stat().st_size) from error


def _no_space(error: OSError, path: Path, size: int) -> Exception:
    if error.errno != errno.ENOSPC:
        return error
    return InputError(
        f"{path.parent.parent}: no space for {size / 1e6:,.0f} MB of prepared data\n"
        "free some, or set MEDJAX_CACHE to a folder on a larger disk"
    )
