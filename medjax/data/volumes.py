"""Volumes and pictures with masks as Sources: those that a layout has listed, and those that a user names for prediction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.data.folders import ENDINGS_IN_WORDS, UNKNOWN, case_id, drop_ending, picture_files
from medjax.errors import InputError
from medjax.formats.dicom import dicom_facts
from medjax.formats.facts import first_bytes, narrow
from medjax.formats.grid import Grid, check_same_place
from medjax.formats.image import to_grey
from medjax.formats.series import Series, group_series, read_header, read_series, read_slices
from medjax.formats.volume import Volume, grid_columns, read_geometry, read_mask, read_volume

IGNORE = 255  # of a mask: not annotated
MOST_CLASSES = 255  # background included: the last value is that of what is not annotated
GREY, COLOUR = ("grey",), ("red", "green", "blue")
_CHANNEL = re.compile(r"(.+)_(\d{4})")


class MaskItem(NamedTuple):
    """A case as a layout lists it.

    Attributes:
      images: one file or series for each channel, or one that holds them all.
      id: of the case.
      mask: None where it has none.
      patient: "" where it is unknown; a DICOM file then tells it itself.
      known: values of the source's `columns`.
    """

    images: tuple[Path | Series, ...]
    id: str
    mask: Path | None = None
    patient: str = ""
    known: tuple[Any, ...] = ()


class MaskSource:
    """Cases as examples {id, patient, path, image [D, H, W, C], mask [D, H, W], label [K - 1], grid...}, in medjax's order.

    `mask` is uint8: places in `classes`, or IGNORE; `label` int8 tells of each class but the background whether the mask has it
    (1) or not (0), -1 where the case has no mask. The grid is that of `medjax.formats.volume.grid_columns`.

    Attributes:
      items: the cases.
      classes: names, "background" first.
      channels: what each channel is, such as "CT" or "T1w".
      values: {stored value: place in `classes`, or IGNORE}; by default the places themselves.
      columns: names of what is known besides, out of sex, age, view and site.
    """

    def __init__(
        self,
        items: Iterable[MaskItem],
        classes: Sequence[str],
        channels: Sequence[str],
        *,
        values: Mapping[int, int] | None = None,
        columns: Sequence[str] = (),
    ):
        self.items = list(items)
        self.classes, self.channels, self.columns = tuple(classes), tuple(channels), tuple(columns)
        self.values = dict(values) if values is not None else {k: k for k in range(len(self.classes))}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Image of the dtype that its files have, or a wider one of uint8, uint16, int16, float32 where they differ."""
        item = self.items[i]
        volumes = [_read(image) for image in item.images]
        first, grid = volumes[0], volumes[0].grid
        for place, other in zip(item.images[1:], volumes[1:], strict=True):
            _check_channel(_name(item.images[0]), grid, _name(place), other.grid)
        parts = [self._fitted(volume) for volume in volumes]
        image = narrow(np.concatenate(parts, -1)) if len(parts) > 1 else parts[0]
        if image.shape[-1] != len(self.channels):
            raise InputError(
                f"{_name(item.images[0])}: has {image.shape[-1]} channels, where {len(self.channels)} are expected "
                f"({', '.join(self.channels)})\ngive each case the same channels, as one file of four axes or a file for each"
            )
        mask = np.full(grid.shape, IGNORE, np.uint8)
        label = np.full(len(self.classes) - 1, -1, np.int8)
        if item.mask is not None:
            mask = self._mask(item.mask, item.images[0], grid)
            label = (np.bincount(mask.ravel(), minlength=IGNORE + 1)[1 : len(self.classes)] > 0).astype(np.int8)
            label = np.where((mask == IGNORE).all(), -1, label).astype(np.int8)
        known = dict(zip(self.columns, item.known, strict=True))
        known = {name: _first(value, getattr(first.facts, name), UNKNOWN[name]) for name, value in known.items()}
        about = {"id": item.id, "patient": item.patient or first.facts.patient, "path": str(_name(item.images[0]))}
        return {
            **about,
            "image": image,
            "mask": mask,
            "label": label,
            **grid_columns(grid, first.form, _files(item.images[0])),
            **known,
        }

    def case_id(self, i: int) -> str:
        """The id of a case, also where its files cannot be read."""
        return self.items[i].id

    def facts(self, i: int) -> dict[str, Any]:
        """{shape int64 [3], spacing float64 [3] (NaN unknown), channels}, by the header alone where the format allows."""
        image = self.items[i].images[0]
        grid = read_slices(image).grid if isinstance(image, Series) else read_geometry(image)
        spacing = grid_columns(grid, "")["spacing"]
        return {"shape": np.array(grid.shape, np.int64), "spacing": spacing, "channels": self.channels}

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: all that the listing says, sizes and times, without reading the files."""
        yield f"{self.classes}|{self.channels}|{sorted(self.values.items())}|{self.columns}"
        for item in self.items:
            yield f"{item.id}|{item.patient}|{item.known}|{item.mask}"
            files = [f for image in item.images for f in _files(image) or (image,)]
            for path in (*files, *((item.mask,) if item.mask else ())):
                try:
                    stat = path.stat()
                    yield f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
                except OSError as error:  # told when it is read
                    yield f"{path}|{error.strerror}"

    def _fitted(self, volume: Volume) -> np.ndarray:
        """Pixels of a volume; a picture's number of channels is what those of the others are."""
        pixels = volume.pixels
        if volume.grid.affine is None and self.channels == COLOUR and pixels.shape[-1] == 1:
            return np.repeat(pixels, 3, -1)
        if volume.grid.affine is None and len(self.channels) == 1 and pixels.shape[-1] == 3:
            return to_grey(pixels[0])[None, ..., None]
        return pixels

    def _mask(self, path: Path, image: Path | Series, grid: Grid) -> np.ndarray:
        stored, other = read_mask(path)
        check_same_place(_name(image), grid, path, other)
        counts = np.bincount(stored.ravel())
        strange = [int(value) for value in np.flatnonzero(counts) if int(value) not in self.values]
        if strange:
            of = ", ".join(f"{value} {_meaning(self.classes, k)}" for value, k in sorted(self.values.items())[:12])
            raise InputError(
                f"{path}: the value {strange[0]} in {counts[strange[0]]:,} of {stored.size:,} voxels is no class ({of})\n"
                "mend the mask, or add the class to the data's description (dataset.json, --data.classes)"
            )
        table = np.zeros(len(counts), np.uint8)
        for value, k in self.values.items():
            if value < len(table):
                table[value] = k
        return table[stored]


def by_split(
    items: Iterable[tuple[str, MaskItem]], classes: Sequence[str], channels: Sequence[str], **options: Any
) -> dict[str, MaskSource]:
    """Items (split or "all", item) as {split: MaskSource}; `options` are those of `MaskSource`.

    Raises:
      InputError: two items of one id, over MOST_CLASSES classes.
    """
    found: dict[str, list[MaskItem]] = {}
    for split, item in items:
        found.setdefault(split, []).append(item)
    _unique([item for part in found.values() for item in part])
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{len(classes)} classes with the background; up to {MOST_CLASSES} are possible\njoin some", usage=True
        )
    return {split: MaskSource(part, classes, channels, **options) for split, part in found.items()}


def volume_source(inputs: Sequence[str | Path], *, channels: Sequence[str], classes: int) -> MaskSource:
    """Volumes or pictures named one by one or by folder, without masks, for prediction: `mask` is IGNORE, `label` -1.

    Where several channels are wanted, files CASE_0000, CASE_0001, ... of one folder are one case, as nnU-Net has them. DICOM
    files of one series are a volume; of a series of one file, a picture. An id is the path relative to its folder.

    Args:
      inputs: files and folders.
      channels: what the network was trained on.
      classes: how many, background included.

    Raises:
      InputError: nothing there, a folder without pictures, a case that lacks a channel, two cases of one id, DICOM files that
        cannot be put together.
    """
    folders: list[tuple[Path, list[Path]]] = []
    named: dict[Path, list[Path]] = {}  # one by one, by folder: they may be channels or slices of one case
    for given in inputs:
        path = Path(given)
        if not path.exists():
            raise InputError(f"{path}: no such file or folder\ngive images, or folders of them, that exist")
        if path.is_dir():
            folders.append((path, picture_files(path)))
        elif path.parent in named:
            named[path.parent].append(path)
        else:
            named[path.parent] = [path]
            folders.append((path.parent, named[path.parent]))
    items: list[MaskItem] = []
    for root, files in folders:
        if not files:
            raise InputError(f"{root}: holds no images\ngive images ({ENDINGS_IN_WORDS}) or a folder of them")
        items += [MaskItem(images, name) for name, images in _cases(files, root, channels)]
    _unique(items)
    return MaskSource(items, ("background", *(str(k) for k in range(1, classes))), channels)


def channel_files(files: Iterable[Path], root: Path, count: int) -> dict[str, tuple[Path, ...]]:
    """{id: the files CASE_0000, CASE_0001, ... of each case}; the id is CASE's path relative to `root`.

    Raises:
      InputError: a name without a channel's number, a case that lacks one of `count` channels, or has more.
    """
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        parts = _CHANNEL.fullmatch(drop_ending(file.relative_to(root).as_posix()))
        if parts is None:
            raise InputError(f"{file}: its name ends with no channel's number\ncall it CASE_0000, CASE_0001, ...")
        found.setdefault(parts[1], {})[int(parts[2])] = file
    for name, channels in found.items():
        if missing := sorted(set(range(count)) - channels.keys()):
            raise InputError(
                f"{root / name}_{missing[0]:04d}: no such file, though it is a channel\nadd it, or remove the case"
            )
        if extra := sorted(channels.keys() - set(range(count))):
            raise InputError(f"{channels[extra[0]]}: is one channel more than the {count} expected\nremove it")
    return {name: tuple(channels[k] for k in range(count)) for name, channels in found.items()}


def _cases(files: Sequence[Path], root: Path, channels: Sequence[str]) -> list[tuple[str, tuple[Path | Series, ...]]]:
    """(id, images) of files that a user names."""
    headers = {file: header for file in files if (header := _header(file))}
    series = [one for one in group_series(headers.items()) if len(one.files) > 1 or _has_frames(one.files[0])]
    within = {file for one in series for file in one.files}
    found: list[tuple[str, tuple[Path | Series, ...]]] = [(_series_id(one, root, len(series)), (one,)) for one in series]
    rest = [file for file in files if file not in within and (file not in headers or group_series([(file, headers[file])]))]
    several = len(channels) > 1 and tuple(channels) != COLOUR and len(rest) > 1
    parts = [_CHANNEL.fullmatch(drop_ending(file.name)) for file in rest]
    if several and all(part and int(part[2]) < len(channels) for part in parts):
        return [*found, *channel_files(rest, root, len(channels)).items()]
    return [*found, *((case_id(file, root), (file,)) for file in rest)]


def _header(file: Path) -> Any:
    """The header of a DICOM file that names its series."""
    header = read_header(file) if first_bytes(file, 132)[128:] == b"DICM" else None
    return header if header and header.series else None


def _has_frames(file: Path) -> bool:
    return len(dicom_facts(file).spacing or ()) == 3


def _series_id(series: Series, root: Path, count: int) -> str:
    """The folder of a series, with its UID where others may lie there too."""
    folder = series.files[0].parent
    name = folder.relative_to(root).as_posix() if folder != root else folder.resolve().name
    return name if count == 1 else f"{name}/{series.uid}"


def _read(image: Path | Series) -> Volume:
    if not isinstance(image, Series):
        return read_volume(image)
    pixels, grid, facts = read_series(image)
    return Volume(pixels[..., None], grid, facts, "dicom")


def _files(image: Path | Series) -> tuple[Path, ...]:
    """Of a series."""
    return image.files if isinstance(image, Series) else ()


def _check_channel(image: Path, grid: Grid, other: Path, of: Grid) -> None:
    try:
        check_same_place(image, grid, other, of)
    except InputError as error:
        line = str(error).partition("\n")[0].replace("its image", "the first channel")
        raise InputError(f"{line}\nresample the channels of a case to one grid, or leave the case out") from None


def _name(image: Path | Series) -> Path:
    """What an image is called: a file, or the folder of a series."""
    return image.files[0].parent if isinstance(image, Series) else image


def _meaning(classes: Sequence[str], k: int) -> str:
    return "ignored" if k == IGNORE else classes[k]


def _first(*values: Any) -> Any:
    """The first value that says something, else the last."""
    return next((value for value in values if value != "" and value == value), values[-1])


def _unique(items: Sequence[MaskItem]) -> None:
    seen: dict[str, Path] = {}
    for item in items:
        here = _name(item.images[0])
        if item.id in seen:
            raise InputError(f"{here} and {seen[item.id]} share the id {item.id!r}\nrename one of them")
        seen[item.id] = here
