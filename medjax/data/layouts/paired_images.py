"""PATH/WORSE/* and PATH/BETTER/* of one name each: input/ and target/, lq/ and gt/, low/ and full/; or PATH/SPLIT/..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medjax.data.folders import ENDINGS_IN_WORDS, SPLIT_NAMES, case_id, picture_files
from medjax.data.layouts import Layout
from medjax.data.layouts.class_folders import _metadata
from medjax.data.layouts.images_masks import _channels, _folders
from medjax.data.restored import pairs
from medjax.data.volumes import MaskItem
from medjax.errors import InputError
from medjax.formats.series import Series

# (worse, better), lower case.
NAMES = (
    ("input", "target"),
    ("lq", "gt"),
    ("low", "full"),
    ("low", "high"),
    ("quarter", "full"),
    ("low_dose", "full_dose"),
    ("noisy", "clean"),
    ("degraded", "truth"),
    ("before", "after"),
)
_WHERE = "expected PATH/input/a.png with PATH/target/a.png, or the same inside of train/, val/ and test/"


def sources(path: str | Path, *, channels: Sequence[str] = ()) -> Layout:
    """Read pairs of a worse and a better image, which have one path inside of their folders but for the ending.

    Pictures, single DICOM files and NIfTI volumes. The better image is as large as the worse one or a whole number of times as
    large, which is checked as each pair is read. An optional PATH/metadata.csv is as in `medjax.data.layouts.class_folders`.

    Args:
      path: the data folder.
      channels: what the channels are; "grey", or "red", "green" and "blue" by default.

    Returns:
      A Layout of kind "restore", its sources under "all" where no split is given.

    Raises:
      InputError: no such folders, an image without its partner, a metadata.csv that cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    parts = _parts(root)
    if not parts:
        raise InputError(f"{root}: holds no folders of worse and better images\n{_WHERE}")
    _, metadata = _metadata(root)
    found: dict[str, list[tuple[MaskItem, Path | Series]]] = {}
    for split, worse, better in parts:
        for file, other in _partners(worse, better):
            patient, given, *_ = metadata(file, case_id(file, root))
            inside = given if given and split == "all" else split
            found.setdefault(inside, []).append((MaskItem((file,), case_id(file, root), patient=patient), other))
    everything = [item for part in found.values() for item in part]
    kinds = tuple(channels) or _channels([file for item, _ in everything[:8] for file in item.images])
    about = f"{len(everything):,} pairs of images ({', '.join(kinds)}), {parts[0][1].name} and {parts[0][2].name}"
    return Layout(pairs(found, kinds), (), "restore", about)


def sniff(path: str | Path) -> str:
    """Why this looks like pairs of images; "" where it does not."""
    root = Path(path)
    for _, worse, better in _parts(root) if root.is_dir() else []:
        named = {case_id(file, better) for file in picture_files(better)}
        both = sum(case_id(file, worse) in named for file in picture_files(worse))
        if both:
            return f"{both:,} images in {worse.name} have a partner in {better.name}"
    return ""


def _parts(root: Path) -> list[tuple[str, Path, Path]]:
    """(split or "all", folder of worse images, folder of better ones)."""
    if both := _both(root):
        return [("all", *both)]
    found = []
    for folder in _folders(root):
        split, both = SPLIT_NAMES.get(folder.name.lower(), ""), _both(folder)
        if split and both:
            found.append((split, *both))
    return found


def _both(folder: Path) -> tuple[Path, Path] | None:
    by_name = {d.name.lower(): d for d in _folders(folder)}
    return next(((by_name[a], by_name[b]) for a, b in NAMES if a in by_name and b in by_name), None)


def _partners(worse: Path, better: Path) -> list[tuple[Path, Path]]:
    files, others = ({case_id(file, folder): file for file in picture_files(folder)} for folder in (worse, better))
    if not files:
        raise InputError(f"{worse}: holds no images\nadd some ({ENDINGS_IN_WORDS})")
    for here, there, folder in ((files, others, better), (others, files, worse)):
        if lone := next((name for name in here if name not in there), None):
            raise InputError(f"{here[lone]}: has no partner {folder / lone}\nadd it, or remove the image")
    return [(file, others[name]) for name, file in files.items()]
