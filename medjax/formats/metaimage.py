"""MetaImage (.mhd with its .raw, or .mha), the form of LUNA16's scans: a text of facts, then the voxels."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medjax.errors import InputError

_TYPES = {"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_INT": "i4", "MET_FLOAT": "f4"}
_MOST = 1 << 16  # bytes of the text, at most


class MetaImage(NamedTuple):
    """A volume as its header describes it.

    Attributes:
      shape: (D, H, W).
      origin: mm, (x, y, z) of the first voxel's centre, left-posterior-superior.
      spacing: mm, (x, y, z).
      direction: [3, 3], columns are the directions of x, y and z in space.
      dtype: of the voxels.
      data: (file, first byte) of the voxels; compressed ones are unpacked as a whole.
      compressed: by zlib.
    """

    shape: tuple[int, int, int]
    origin: np.ndarray
    spacing: np.ndarray
    direction: np.ndarray
    dtype: np.dtype
    data: tuple[Path, int]
    compressed: bool

    def to_voxel(self, world: np.ndarray) -> np.ndarray:
        """Places [m, 3] (x, y, z) in mm as places (column, row, slice) in voxels, the first one's centre at 0."""
        return np.linalg.solve(self.direction, (np.asarray(world, float) - self.origin).T).T / self.spacing


def read_header(path: str | Path) -> MetaImage:
    """Read the text of a .mhd or .mha.

    Raises:
      InputError: no MetaImage of three axes, or one whose voxels this reader does not take or find.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(_MOST)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}\ncheck the path") from None
    facts: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in facts:
        end = raw.find(b"\n", at)
        end = len(raw) if end < 0 else end
        name, equals, value = raw[at:end].decode("latin-1").partition("=")
        if not equals:
            raise InputError(f"{path}: is no MetaImage: {name[:40]!r} in its header\ngive LUNA16's .mhd")
        facts[name.strip()] = value.strip()
        at = end + 1
    if facts.get("NDims") != "3" or facts.get("ElementType") not in _TYPES or facts.get("ElementNumberOfChannels", "1") != "1":
        kind = f"{facts.get('NDims')} axes of {facts.get('ElementType')}"
        raise InputError(f"{path}: {kind} are not read\ngive volumes of {', '.join(_TYPES)}")
    try:
        w, h, d = (int(v) for v in facts["DimSize"].split())
        spacing = np.array([float(v) for v in facts["ElementSpacing"].split()])
        origin = np.array([float(v) for v in (facts.get("Offset") or facts.get("Position") or facts["Origin"]).split()])
        direction = np.array([float(v) for v in facts.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]).reshape(3, 3).T
        if min(w, h, d) < 1 or spacing.shape != (3,) or origin.shape != (3,) or not (spacing > 0).all():
            raise ValueError
        if abs(np.linalg.det(direction)) < 1e-6:
            raise ValueError
    except (KeyError, ValueError):
        raise InputError(f"{path}: its DimSize, ElementSpacing, Offset or TransformMatrix say nothing\nget it again") from None
    big = facts.get("BinaryDataByteOrderMSB", facts.get("ElementByteOrderMSB", "False")).lower() == "true"
    dtype = np.dtype(_TYPES[facts["ElementType"]]).newbyteorder(">" if big else "<")
    name = facts["ElementDataFile"]
    data = (path, at) if name.upper() == "LOCAL" else (path.parent / Path(name).name, int(facts.get("HeaderSize", "0") or 0))
    if not data[0].is_file():
        raise InputError(f"{path}: its voxels {data[0].name} are not beside it\nput them there")
    packed = facts.get("CompressedData", "False").lower() == "true"
    return MetaImage((d, h, w), origin, spacing, direction, dtype, data, packed)


def read_slice(image: MetaImage, z: int) -> np.ndarray:
    """One slice [H, W] in the machine's byte order, the others not read where the voxels are not compressed.

    Raises:
      InputError: the file is shorter than its header says.
    """
    (d, h, w), (path, start) = image.shape, image.data
    size = h * w * image.dtype.itemsize
    if not 0 <= z < d:
        raise InputError(f"{path}: has {d} slices, and slice {z} is asked for\ncheck the coordinates")
    with open(path, "rb") as handle:
        if image.compressed:
            handle.seek(start)
            unpack = zlib.decompressobj()
            raw = unpack.decompress(handle.read(), (z + 1) * size)[z * size :]
        else:
            handle.seek(start + z * size)
            raw = handle.read(size)
    if len(raw) != size:
        raise InputError(f"{path}: ends before slice {z}\nget it again")
    return np.frombuffer(raw, image.dtype).reshape(h, w).astype(image.dtype.newbyteorder("="))
