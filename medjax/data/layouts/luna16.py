"""LUNA16: annotations.csv of seriesuid, coordX, coordY, coordZ and diameter_mm, with SERIES.mhd at any depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medjax.data.boxes import BoxItem, by_split
from medjax.data.layouts import Layout
from medjax.errors import InputError
from medjax.formats.facts import Facts, Picture
from medjax.formats.metaimage import read_header, read_slice
from medjax.formats.table import read_table

TABLE = "annotations.csv"
CLASSES = ("nodule",)
_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
_LEAST = 2.0  # mm across, of the part of a nodule in a slice, below which it is not counted there


def sources(path: str | Path) -> Layout:
    """Read the lung nodules of LUNA16 (Setio et al., Medical Image Analysis 2017) as boxes in axial slices.

    Of each annotated nodule the slice through its middle is a picture; of a scan without any, its middle slice. A nodule is
    taken for a ball, and has a box in every slice listed that cuts it; where that is less than 2 mm across it counts neither
    way. Coordinates are in mm, left-posterior-superior, as MetaImage has them. A scan is a patient.

    Args:
      path: the folder with annotations.csv.

    Raises:
      InputError: no table or column, a number that is none, no scans, a nodule outside of its scan. Nodules of scans that are
        not there are left out and counted, since the challenge comes in ten parts.
    """
    root = Path(path)
    if not (root / TABLE).is_file():
        raise InputError(f"{root}: holds no {TABLE}\ngive the folder of LUNA16 that has it, with the scans inside")
    table = read_table(root / TABLE)
    uid, *numbers = (table.need(name) for name in _COLUMNS)
    scans: dict[str, Path] = {}
    for file in sorted([*root.rglob("*.mhd"), *root.rglob("*.mha")]):
        if file.stem in scans:
            raise InputError(f"{file} and {scans[file.stem]} are the same scan\nkeep one")
        scans[file.stem] = file
    if not scans:
        raise InputError(f"{root}: holds no .mhd\nunpack the scans into it")
    nodules: dict[str, list[list[float]]] = {name: [] for name in scans}
    left = 0
    for number, row in enumerate(table.rows, 2):
        try:
            values = [float(row[column]) for column in numbers]
        except ValueError:
            values = []
        if not values or not np.isfinite(values).all() or values[3] <= 0:
            raise InputError(f"{root / TABLE}: row {number} holds no nodule\ngive three coordinates and a diameter in mm")
        if row[uid] in nodules:
            nodules[row[uid]].append(values)
        else:
            left += 1
    items = [item for name, file in scans.items() for item in _slices(name, file, np.array(nodules[name]).reshape(-1, 4), root)]
    boxes = sum(len(item.category) for item in items)
    about = f"LUNA16: {len(items):,} slices of {len(scans):,} scans with {boxes:,} boxes of nodules"
    about += f"; {left:,} nodules of scans that are not here were left out" if left else ""
    found = by_split([("all", item) for item in items], CLASSES, root / TABLE, read=read_item)
    return Layout(found, CLASSES, "boxes", about)


def sniff(path: str | Path) -> str:
    """Why this looks like LUNA16; "" where it does not."""
    root = Path(path)
    if not (root / TABLE).is_file():
        return ""
    with open(root / TABLE, encoding="utf-8", errors="replace") as handle:
        head = handle.readline()
    return f"{TABLE} holds world coordinates of nodules" if all(name in head for name in _COLUMNS) else ""


def read_item(item: BoxItem) -> Picture:
    """The slice of a scan, int16 in Hounsfield units."""
    (z,) = item.part
    pixels = np.clip(read_slice(read_header(item.path), z), -32768, 32767).astype(np.int16)
    return Picture(pixels, Facts(modality="CT", hounsfield=True))


def _slices(name: str, file: Path, nodules: np.ndarray, root: Path) -> list[BoxItem]:
    scan = read_header(file)
    depth, height, width = scan.shape
    if not len(nodules):
        return [_item(name, file, depth // 2, np.zeros((0, 4)), np.zeros(0, bool), (height, width))]
    at = scan.to_voxel(nodules[:, :3])
    outside = ((at < -0.5) | (at > np.array([width, height, depth]) - 0.5)).any(1)
    if outside.any():
        x, y, z = nodules[int(outside.argmax()), :3]
        raise InputError(
            f"{root / TABLE}: the nodule at ({x:g}, {y:g}, {z:g}) lies outside of {file.name}\n"
            "give world coordinates in mm, not voxels, and in the order x, y, z"
        )
    items = []
    for z in sorted({int(v) for v in np.round(at[:, 2])}):
        away = (at[:, 2] - z) * scan.spacing[2]
        across = 2 * np.sqrt(np.maximum((nodules[:, 3] / 2) ** 2 - away**2, 0))
        inside = across > 0
        half = across[inside, None] / 2 / scan.spacing[:2]
        # A voxel's centre is at a whole number, and its pixel goes from there half to either side.
        middle = at[inside, :2] + 0.5
        boxes = np.concatenate([middle - half, middle + half], 1)
        items.append(_item(name, file, z, boxes, across[inside] < _LEAST, (height, width)))
    return items


def _item(name: str, file: Path, z: int, boxes: np.ndarray, small: np.ndarray, size: tuple[int, int]) -> BoxItem:
    none = np.zeros(len(boxes), np.int32)
    return BoxItem(file, f"{name}:{z}", boxes, none, small, name, (), size, "", (z,))
