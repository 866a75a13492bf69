"""fastMRI's HDF5 files: PATH/*.h5, or PATH/singlecoil_train/*.h5 (multicoil_train, ..._val, ..._test), as they unpack."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.data.layouts import Layout
from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.facts import first_bytes
from medjax.formats.grid import Grid
from medjax.formats.volume import grid_columns

_HDF5 = b"\x89HDF\r\n\x1a\n"
_FOLDER = re.compile(r"(?:single|multi)coil_(train|val|test|challenge)(?:_full|_v2)?", re.IGNORECASE)
_TRUTHS = ("reconstruction_rss", "reconstruction_esc")
_COPY = "copy the file again, or leave it out"


class Scan(NamedTuple):
    """A file as the layout lists it."""

    path: Path
    id: str


class FastMRI:
    """Volumes as examples {id, patient, path, view, label, kspace, sampled, image, file, grid...}.

    kspace: complex64 [D, C, H, W]. sampled: bool [W], all false where the file brings no mask. image: float32 [D, h, w, 1], the
    reconstruction of all of k-space, or, where the file has none, of zeros of the size that its header asks for. label: 0, or
    -1 without a reconstruction. view: the acquisition. file: the name whose characters are fastMRI's seed of a mask.
    """

    channels = ("MR",)

    def __init__(self, items: Iterable[Scan]):
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def case_id(self, i: int) -> str:
        """The id of a case, also where its file cannot be read."""
        return self.items[i].id

    def identity(self) -> Iterable[str]:
        """Paths, sizes and times."""
        for path, name in self.items:
            stat = path.stat()
            yield f"{path}|{name}|{stat.st_size}|{stat.st_mtime_ns}"

    def __getitem__(self, i: int) -> dict[str, Any]:
        """See the class.

        Raises:
          InputError: no HDF5, damaged, no k-space, of a shape or kind that is none.
        """
        path, name = self.items[i]
        kspace, truth, mask, told = read_scan(path)
        size = truth.shape[1:] if truth is not None else told["size"]
        image = np.zeros((len(kspace), *size, 1), np.float32) if truth is None else truth[..., None]
        return {
            "id": name,
            "patient": told["patient"],
            "path": str(path),
            "view": told["acquisition"],
            "label": np.int8(0 if truth is not None else -1),
            "kspace": kspace,
            "sampled": np.zeros(kspace.shape[-1], bool) if mask is None else mask,
            "image": image,
            "file": path.name,
            **grid_columns(Grid((image.shape[0], image.shape[1], image.shape[2])), "npy"),
        }


def read_scan(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, dict[str, Any]]:
    """(k-space complex64 [D, C, H, W], truth float32 [D, h, w] or None, mask bool [W] or None, facts) of a file.

    Raises:
      InputError: see `FastMRI`.
    """
    h5py = need("h5py", extra="restore")
    if first_bytes(path, 8) != _HDF5:
        raise InputError(f"{path}: no HDF5 file\ngive fastMRI's .h5 files")
    try:
        with h5py.File(path, "r") as file:
            if "kspace" not in file:
                raise InputError(f"{path}: holds no k-space but {', '.join(sorted(file)) or 'nothing'}\ngive fastMRI's files")
            kspace = file["kspace"][()]
            truth = next((file[name][()] for name in _TRUTHS if name in file), None)
            mask = file["mask"][()] if "mask" in file else None
            header = file["ismrmrd_header"][()] if "ismrmrd_header" in file else b""
            attributes = {name: file.attrs[name] for name in ("acquisition", "patient_id") if name in file.attrs}
    except InputError:
        raise
    except Exception as error:  # HDF5 answers damage with exceptions of several kinds
        raise InputError(f"{path}: damaged HDF5: {str(error)[:100]}\n{_COPY}") from error
    if kspace.ndim not in (3, 4) or kspace.dtype.kind != "c" or 0 in kspace.shape:
        raise InputError(
            f"{path}: k-space is {kspace.dtype} {list(kspace.shape)}, where complex [slices, (coils,) rows, columns] is "
            "expected\nsave it so, or leave the file out"
        )
    kspace = (kspace[:, None] if kspace.ndim == 3 else kspace).astype(np.complex64)
    if truth is not None and (truth.ndim != 3 or len(truth) != len(kspace)):
        raise InputError(f"{path}: the reconstruction is {list(truth.shape)} for {len(kspace)} slices of k-space\n{_COPY}")
    if mask is not None and mask.ravel().shape != kspace.shape[-1:]:
        raise InputError(f"{path}: its mask has {mask.size} columns, k-space {kspace.shape[-1]}\n{_COPY}")
    told = {
        "acquisition": _text(attributes.get("acquisition", "")),
        "patient": _text(attributes.get("patient_id", "")),
        "size": _size(header, kspace.shape[-2:]),
    }
    return (
        kspace,
        None if truth is None else truth.astype(np.float32),
        None if mask is None else mask.ravel().astype(bool),
        told,
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _size(header: bytes | str, most: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the reconstruction by the header's reconSpace, at most k-space's own."""
    text = _text(header)
    space = re.search(r"<reconSpace>.*?<matrixSize>(.*?)</matrixSize>", text, re.DOTALL)
    found = [re.search(rf"<{axis}>\s*(\d+)\s*</{axis}>", space[1]) if space else None for axis in "xy"]
    sides = [int(one[1]) if one else math.inf for one in found]
    return int(min(sides[0], most[0])), int(min(sides[1], most[1]))


def sources(path: str | Path) -> Layout:
    """Read fastMRI's files (Zbontar et al., arXiv:1811.08839; k-space, and reconstructions of all of it but for the test sets).

    A folder whose files have no reconstruction, as the test and challenge sets, is left out: nothing can be measured on it.
    The validation set is called "test" where no folder of tests brings reconstructions, as published numbers are of it;
    medjax then takes validation volumes from the training set.

    Args:
      path: a folder of .h5 files, or of fastMRI's folders of them, of single coils or of several.

    Returns:
      A Layout of kind "kspace", its sources under "all" where no split is given.

    Raises:
      InputError: no such folder, no files, both single and several coils, two files of one id.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\ngive fastMRI's, such as the one that holds singlecoil_train")
    parts = _parts(root)
    if not parts:
        raise InputError(f"{root}: holds no .h5 files\ngive fastMRI's folder, such as the one that holds singlecoil_train")
    kinds = {folder.name.partition("coil")[0].lower() for _, folder in parts if _FOLDER.fullmatch(folder.name)}
    if len(kinds) > 1:
        raise InputError(f"{root}: holds folders of single and of several coils\ngive one kind at a time")
    found: dict[str, list[Scan]] = {}
    for split, folder in parts:
        files = sorted(folder.glob("*.h5"))
        if files and not _has_truth(files[0]):
            continue
        found.setdefault(split, []).extend(Scan(file, file.relative_to(root).with_suffix("").as_posix()) for file in files)
    if not found:
        raise InputError(f"{root}: no file holds a reconstruction to learn from or to measure on\ngive a training set")
    if "val" in found and "test" not in found and "train" in found:
        found["test"] = found.pop("val")
    n = sum(map(len, found.values()))
    return Layout({split: FastMRI(items) for split, items in found.items()}, (), "kspace", f"{n:,} volumes of k-space")


def _has_truth(path: Path) -> bool:
    h5py = need("h5py", extra="restore")
    try:
        with h5py.File(path, "r") as file:
            return any(name in file for name in _TRUTHS)
    except Exception as error:
        raise InputError(f"{path}: damaged HDF5: {str(error)[:100]}\n{_COPY}") from error


def _parts(root: Path) -> list[tuple[str, Path]]:
    if any(root.glob("*.h5")):
        match = _FOLDER.fullmatch(root.name)
        return [("all" if match is None or match[1] != "test" else "test", root)]
    found = []
    for folder in sorted(d for d in root.iterdir() if d.is_dir()):
        match = _FOLDER.fullmatch(folder.name)
        if match and any(folder.glob("*.h5")):
            found.append(("test" if match[1].lower() == "challenge" else match[1].lower(), folder))
    return found


def sniff(path: str | Path) -> str:
    """Why this looks like fastMRI's files; "" where it does not."""
    root = Path(path)
    parts = _parts(root) if root.is_dir() else []
    return f"HDF5 files in {parts[0][1].name}" if parts else ""
