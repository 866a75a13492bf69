"""PATH/CASE/...: a DICOM series with its SEG, RTSTRUCT or NIfTI mask for each case, and perhaps a metadata.csv of patients."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax.data.folders import SPLIT_NAMES, UNKNOWN
from medjax.data.layouts import Layout
from medjax.data.layouts.class_folders import _metadata
from medjax.errors import InputError
from medjax.formats import dicom_seg, rtstruct
from medjax.formats.grid import check_same_place
from medjax.formats.nifti import load_nifti
from medjax.formats.regions import MOST, Overlap
from medjax.formats.series import Header, Series, Slices, group_series, place, read_header, read_series, read_slices
from medjax.formats.volume import grid_columns

IGNORED = 255
BACKGROUND = "background"
_NIFTI = (".nii", ".nii.gz")
_MASK_NAMES = {"mask", "masks", "segmentation", "seg", "label", "labels"}  # where a case has more NIfTI files than its mask
_IN_HEADERS = ("sex", "age")
_GLANCE = 3, 300  # cases, and files of each, that `sniff` looks at
_WHERE = "expected PATH/CASE/... with the DICOM files of one series, and a SEG, an RTSTRUCT or a NIfTI mask"


class Mask(NamedTuple):
    """A file of masks.

    Attributes:
      path: the file.
      kind: what it is.
      names: its classes; () in NIfTI, whose values are the places of `Layout.classes`.
    """

    path: Path
    kind: Literal["seg", "rtstruct", "nifti"]
    names: tuple[str, ...] = ()


class Case(NamedTuple):
    """A case as it was found.

    Attributes:
      id: its folder, relative to the data's.
      folder: that folder.
      series: its images.
      mask: None where it has none.
      patient: "" where it is unknown.
      known: values of the source's `columns`.
    """

    id: str
    folder: Path
    series: Series
    mask: Mask | None
    patient: str
    known: tuple[Any, ...] = ()


class MaskSource:
    """Cases as examples {id, patient, path, image [D, H, W, 1], mask [D, H, W], label [K - 1], grid...}, in medjax's order.

    `label` is 1 for a class of the foreground that the mask has, 0 for one that it has not, and -1 for one that was not
    annotated: of which a SEG has no segment, or an RTSTRUCT no contour. A mask is 255 throughout where there is none.

    Attributes:
      cases: the cases.
      channels: the modality of the series.
      classes: of the foreground.
      columns: names of what is known besides, out of sex, age, view and site.
      overlap: for `medjax.formats.regions.paint`.
    """

    def __init__(self, cases: Iterable[Case], classes: Sequence[str], columns: Sequence[str] = (), overlap: Overlap = "stop"):
        self.cases = list(cases)
        self.classes, self.columns, self.overlap = tuple(classes), tuple(columns), overlap
        self.channels = (self.cases[0].series.modality or "image",) if self.cases else ()

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """A volume in the dtype that the series gives, its labels, and the grid as plain arrays."""
        case = self.cases[i]
        slices = read_slices(case.series)
        pixels, grid, facts = read_series(case.series, slices)
        labels, known = self._labels(case, slices)
        said = {**dict.fromkeys(_IN_HEADERS, ""), **dict(zip(self.columns, case.known, strict=True))}
        said = {name: _first(value, getattr(facts, name), UNKNOWN[name]) for name, value in said.items()}
        example = {"id": case.id, "patient": case.patient, "path": str(case.folder), "image": pixels[..., None]}
        return {**example, "mask": labels, "label": known, **grid_columns(grid, "dicom", case.series.files), **said}

    def case_id(self, i: int) -> str:
        """The id of a case, also where it cannot be read."""
        return self.cases[i].id

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: the listing, sizes and times of all files, without reading them."""
        yield f"{self.classes}|{self.columns}|{self.overlap}"
        for case in self.cases:
            yield f"{case.id}|{case.patient}|{case.known}|{case.series.uid}|{case.mask}"
            for path in (*case.series.files, *((case.mask.path,) if case.mask else ())):
                try:
                    stat = path.stat()
                    yield f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
                except OSError as error:  # told when it is read
                    yield f"{path}|{error.strerror}"

    def _labels(self, case: Case, slices: Slices) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 [D, H, W] by the data set's classes; of each class, whether it is there."""
        if case.mask is None:
            return np.full(slices.grid.shape, IGNORED, np.uint8), np.full(len(self.classes), -1, np.int8)
        path, kind, _ = case.mask
        if kind == "nifti":
            labels = _read_nifti(path, case, slices, len(self.classes))
            annotated = self.classes
        else:
            read = dicom_seg.read_seg if kind == "seg" else rtstruct.read_rtstruct
            labels, annotated = read(path, slices, names=self.classes, overlap=self.overlap)
            labels = np.array([0, *(1 + self.classes.index(name) for name in annotated)], np.uint8)[labels]
        there = np.bincount(labels.ravel(), minlength=256)[1 : 1 + len(self.classes)] > 0
        return labels, np.where([name in annotated for name in self.classes], there, -1).astype(np.int8)


def sources(path: str | Path, *, classes: Sequence[str] = (), overlap: Overlap = "stop") -> Layout:
    """Read the layout PATH/CASE/..., or PATH/SPLIT/CASE/... with SPLIT one of train, val, test (or valid, devel...).

    A case's folder holds, at any depth, the files of one image series and at most one mask: a DICOM SEG, an RTSTRUCT, or a
    NIfTI file on the grid of the images (of several NIfTI files, the one that is named mask, segmentation, seg or label). Of
    several series, the one is taken that a SEG or RTSTRUCT refers to. Folders of patients are opened where each folder in
    them has images and a mask. A case without a mask is kept, unlabelled.

    An optional PATH/metadata.csv is as in `medjax.data.layouts.class_folders`, with the cases' folders as paths. Patients come
    from it, else from the DICOM headers.

    Args:
      path: the data folder.
      classes: of the foreground, in the order of the labels, "background" before them or not. By default all segments' labels
        and structures' names, sorted; in NIfTI the values 1 to the greatest. Those of a SEG or RTSTRUCT that are not named are
        background; a NIfTI file's value k is the k-th.
      overlap: "stop" where two classes of one SEG or RTSTRUCT share voxels, or let the "later" one have them.

    Returns:
      A Layout of kind "masks", classes "background" first, its sources under "all" where no split is given.

    Raises:
      InputError: no such folder, no case, a case of no or several series, or of several masks, files outside of a case's
        folder, masks without names beside some with, a class that no mask has, over 254 classes, a metadata.csv that cannot be
        used, and what finding a series and reading names raises.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    columns, metadata = _metadata(root)
    found: list[tuple[str, Case]] = []
    for split, folder in _case_folders(root):
        for inner, entries in _cases(folder, _listing(folder)):
            key = inner.relative_to(root).as_posix()
            patient, given, *known = metadata(inner, key)
            series, mask = _choose(inner, entries)
            case = Case(key, inner, series, mask, patient or series.patient, tuple(known))
            found.append((given if given and split == "all" else split, case))
    masks = [case.mask for _, case in found if case.mask]
    if not masks:
        raise InputError(f"{root}: holds no case with a mask\n{_WHERE}")
    names = _class_names(root, masks, classes)
    by: dict[str, list[Case]] = {}
    for split, case in found:
        by.setdefault(split, []).append(case)
    about = f"{len(found):,} DICOM series with masks of {len(names)} classes"
    if without := len(found) - len(masks):
        about += f"; {without:,} of them have no mask"
    made = {split: MaskSource(cases, names, columns, overlap) for split, cases in by.items()}
    return Layout(made, (BACKGROUND, *names), "masks", about)


def sniff(path: str | Path) -> str:
    """Why this looks like DICOM series with masks; "" where it does not."""
    root, (cases, files) = Path(path), _GLANCE
    if not root.is_dir():
        return ""
    for folder in itertools.islice((folder for _, folder in _case_folders(root, check=False)), cases):
        try:
            entries = _listing(folder, files)
            kinds = {_mask_kind(file, header) for file, header in entries} - {""}
            if kinds and group_series((f, h) for f, h in entries if h):
                return f"{folder.name} holds a DICOM series and a mask ({', '.join(sorted(kinds))})"
        except InputError:
            continue
    return ""


_Entries = list[tuple[Path, Header | None]]


def _case_folders(root: Path, *, check: bool = True) -> list[tuple[str, Path]]:
    """(split or "all", folder) of the folders that hold cases."""
    below = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith((".", "__")))
    splits = [d for d in below if d.name.lower() in SPLIT_NAMES]
    if check:
        for parent in (root, *splits):
            for file in sorted(f for f in parent.iterdir() if f.is_file() and not f.name.startswith(".")):
                if _mask_kind(file, header := read_header(file)) or (header and header.rows):
                    raise InputError(f"{file}: lies outside of every case's folder\n{_WHERE}")
        if splits and (other := next((d for d in below if d not in splits and _listing(d)), None)):
            raise InputError(f"{other}: lies beside the split {splits[0].name}, and is none\nmove its cases into a split")
    inside = [(SPLIT_NAMES[d.name.lower()], d) for d in splits]
    found = [(split, d) for split, parent in inside for d in sorted(parent.iterdir()) if d.is_dir()]
    return [(split, d) for split, d in found if not d.name.startswith(".")] if splits else [("all", d) for d in below]


def _listing(folder: Path, most: int | None = None) -> _Entries:
    """The DICOM images and masks under a folder, sorted by name."""
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    entries = []
    for file in sorted(itertools.islice(files, most)):
        header = None if file.name.lower().endswith(_NIFTI) else read_header(file)
        if _mask_kind(file, header) or (header and group_series([(file, header)])):
            entries.append((file, header))
    return entries


def _mask_kind(file: Path, header: Header | None) -> Literal["seg", "rtstruct", "nifti", ""]:
    if header is None:
        return "nifti" if file.name.lower().endswith(_NIFTI) else ""
    return "seg" if header.kind in dicom_seg.SEG else "rtstruct" if header.kind == rtstruct.RTSTRUCT else ""


def _cases(folder: Path, entries: _Entries) -> list[tuple[Path, _Entries]]:
    """A folder as one case, or, where each of several folders in it has images and masks, as theirs; none without a file."""
    parts: dict[Path, _Entries] = {}
    for file, header in entries:
        parts.setdefault(folder / file.relative_to(folder).parts[0], []).append((file, header))
    if len(parts) > 1 and all(_is_whole(part) for part in parts.values()):
        return [case for inner, part in parts.items() for case in _cases(inner, part)]
    return [(folder, entries)] if entries else []


def _is_whole(entries: _Entries) -> bool:
    kinds = {_mask_kind(file, header) for file, header in entries}
    return "" in kinds and len(kinds) > 1


def _choose(folder: Path, entries: _Entries) -> tuple[Series, Mask | None]:
    """A case's series and mask."""
    series = group_series((file, header) for file, header in entries if header)
    files = [(file, kind) for file, header in entries if (kind := _mask_kind(file, header))]
    if len(files) > 1 and all(kind == "nifti" for _, kind in files):
        named = [(file, kind) for file, kind in files if file.name.lower().partition(".")[0] in _MASK_NAMES]
        files = named if len(named) == 1 else files
    if len(files) > 1:
        raise InputError(f"{folder}: holds {len(files)} masks, {files[0][0]} and {files[1][0]}\nkeep one for each case")
    if not series:
        raise InputError(f"{folder}: holds the mask {files[0][0]}, but no DICOM image series\nadd the images, or remove it")
    mask = None
    about: set[str] = set()
    for file, kind in files:
        if kind == "seg":
            mask, about = Mask(file, "seg", dicom_seg.seg_names(file)), dicom_seg.referenced_series(file)
        elif kind == "rtstruct":
            mask, about = Mask(file, "rtstruct", rtstruct.rtstruct_names(file)), rtstruct.referenced_series(file)
        else:
            mask = Mask(file, "nifti")
    meant = [one for one in series if one.uid in about] if len(series) > 1 else series
    if len(meant) != 1:
        raise InputError(
            f"{folder}: holds {len(series)} image series, {series[0].files[0]} of one and {series[1].files[0]} of another, and "
            "no SEG or RTSTRUCT that says which is meant\nkeep one for each case"
        )
    return meant[0], mask


def _class_names(root: Path, masks: Sequence[Mask], classes: Sequence[str]) -> tuple[str, ...]:
    known = sorted({name for mask in masks for name in mask.names if name.lower() != BACKGROUND})
    plain = [mask.path for mask in masks if mask.kind == "nifti"]
    chosen = tuple(classes[1:] if classes and classes[0].lower() == BACKGROUND else classes)
    if chosen and not plain and (strange := [name for name in chosen if name not in known]):
        near = difflib.get_close_matches(strange[0], known, n=1, cutoff=0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise InputError(f"{root}: no mask has the class {strange[0]!r}{hint}\nthere are {', '.join(known) or 'none'}")
    if not chosen and plain and known:
        raise InputError(f"{plain[0]}: its values have no names, and other masks' have\nname the classes: --data.classes A B")
    if not chosen and plain:
        known = [str(k) for k in range(1, 1 + max(_greatest(_values(path)[0]) for path in plain))]
    names = chosen or tuple(known)
    if not 1 <= len(names) <= MOST or len(set(names)) < len(names):
        raise InputError(
            f"{root}: {len(names)} classes: 1 to {MOST} different ones are possible\nname them: --data.classes A B"
        )
    return names


def _values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A NIfTI mask's values as stored, uint8 [a, b, c], and its affine."""
    values, affine, _ = load_nifti(path)
    if values.ndim != 3:
        raise InputError(f"{path}: a mask of {values.ndim} axes {list(values.shape)}\nsave it with three")
    if not ((values == np.floor(values)) & (values >= 0) & (values <= IGNORED)).all():
        raise InputError(f"{path}: holds values that are no whole numbers of 0 to {IGNORED}\nsave the classes' numbers")
    values = values.astype(np.uint8)
    if _greatest(values) == 0 and values.max() == IGNORED:
        raise InputError(f"{path}: holds {IGNORED}, which is to be ignored, and no class\nsave the class as 1")
    return values, affine


def _greatest(values: np.ndarray) -> int:
    """The greatest class."""
    return int(values.max(initial=0, where=values != IGNORED))


def _read_nifti(path: Path, case: Case, slices: Slices, count: int) -> np.ndarray:
    values, affine = _values(path)
    if (most := _greatest(values)) > count:
        raise InputError(f"{path}: holds the value {most}, beyond the {count} classes\nname them all: --data.classes A B")
    grid = place(affine, values.shape)
    check_same_place(case.series.files[0], slices.grid, path, grid)
    return np.ascontiguousarray(grid.from_stored(values))


def _first(*values: Any) -> Any:
    """The first value that says something, else the last."""
    return next((value for value in values if value != "" and value == value), values[-1])
