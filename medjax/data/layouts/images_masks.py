"""PATH/images/* and PATH/masks/*: an image and its mask of one name each, and perhaps a metadata.csv of patients and splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medjax.data.folders import ENDINGS_IN_WORDS, SPLIT_NAMES, case_id, drop_ending, picture_files
from medjax.data.layouts import Layout
from medjax.data.layouts.class_folders import _metadata
from medjax.data.volumes import COLOUR, GREY, IGNORE, MaskItem, by_split
from medjax.errors import InputError
from medjax.formats.volume import read_mask, read_volume

IMAGES, MASKS = ("images", "image", "imgs"), ("masks", "mask", "labels", "segmentations")
_SUFFIXES = ("_mask", "_seg", "_segmentation", "_label", "-mask", "_gt")  # that a mask's name may have behind its image's
_SAMPLE = 64  # masks, evenly spread, by which the values are found; an eighth of it images, by which the channels are
_MOST = 64  # the greatest value that is taken for the index of a class without being named
_WHERE = "expected PATH/images/NAME.png with PATH/masks/NAME.png, or SPLIT/images and SPLIT/masks for train, val and test"


def sources(
    path: str | Path, *, classes: Sequence[str] = (), channels: Sequence[str] = (), values: Sequence[int] = ()
) -> Layout:
    """Read the layout images/NAME.* with masks/NAME.* (or NAME_mask.*, NAME_seg.*), in PATH, or in train, val and test there.

    The kinds of files may differ: a PNG may be the mask of a DICOM image. A mask holds 0 and one other value, 1 or 255, or the
    index of a class for each voxel, where 255 is not annotated. What it holds is found in up to 64 masks; one that holds
    something else stops the reading. An optional PATH/metadata.csv is as in `medjax.data.layouts.class_folders`.

    Args:
      path: the data folder.
      classes: names of the classes in the order of the values, "background" before them or not.
      channels: what the channels are, such as CT; "grey", or "red", "green" and "blue" by default.
      values: that masks hold, of each class, the background's first, where they are neither indices nor 0 and 255.

    Returns:
      A Layout of kind "masks", its sources under "all" where no split is given.

    Raises:
      InputError: no such folders, an image without a mask or the other way round, two masks of one image, values that are no
        indices or more than the classes, a metadata.csv that cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    parts = _parts(root)
    if not parts:
        raise InputError(f"{root}: holds no folders of images and masks\n{_WHERE}")
    columns, metadata = _metadata(root)
    items = []
    for split, images, masks in parts:
        for file, mask in _pairs(images, masks):
            key = case_id(file, root)
            patient, given, *known = metadata(file, key)
            items.append((given if given and split == "all" else split, MaskItem((file,), key, mask, patient, tuple(known))))
    found = [item for _, item in items]
    names, places = _classes(root, [item.mask for item in _spread(found, _SAMPLE) if item.mask], classes, values)
    kinds = tuple(channels) or _channels([file for item in _spread(found, _SAMPLE // 8) for file in item.images[:1]])
    about = f"{len(items):,} images ({', '.join(kinds)}) with masks of {', '.join(names[1:])}"
    return Layout(by_split(items, names, kinds, values=places, columns=columns), names, "masks", about)


def sniff(path: str | Path) -> str:
    """Why this looks like images with masks; "" where it does not."""
    root = Path(path)
    try:
        parts = _parts(root) if root.is_dir() else []
    except InputError:
        return ""
    for _, images, masks in parts:
        named = {_bare(drop_ending(file.name)) for file in picture_files(masks)}
        both = sum(_bare(drop_ending(file.name)) in named for file in picture_files(images))
        if both:
            return f"{both:,} pictures in {images.name} have a mask in {masks.name}"
    return ""


def _parts(root: Path) -> list[tuple[str, Path, Path]]:
    """(split or "all", folder of images, folder of masks): of the root, of its splits, or of splits inside of both."""
    if both := _both(root):
        images, masks = both
        inside = {SPLIT_NAMES[d.name.lower()]: d for d in _folders(images) if d.name.lower() in SPLIT_NAMES}
        pairs = [(split, d, masks / d.name) for split, d in inside.items()]
        return pairs if pairs and all(mask.is_dir() for _, _, mask in pairs) else [("all", images, masks)]
    found: dict[str, tuple[str, Path, Path]] = {}
    for folder in _folders(root):
        split, both = SPLIT_NAMES.get(folder.name.lower(), ""), _both(folder)
        if not split or not both:
            continue
        if split in found:
            raise InputError(f"{folder} and {found[split][1].parent} are both the {split} split\nput them together in one")
        found[split] = (split, *both)
    return list(found.values())


def _both(folder: Path) -> tuple[Path, Path] | None:
    by_name = {d.name.lower(): d for d in _folders(folder)}
    images, masks = (next((by_name[n] for n in names if n in by_name), None) for names in (IMAGES, MASKS))
    return (images, masks) if images and masks else None


def _folders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith((".", "__")))


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each image with its mask, which has its path, with or without a suffix."""
    files = {case_id(file, images): file for file in picture_files(images)}
    if not files:
        raise InputError(f"{images}: holds no images\nadd some ({ENDINGS_IN_WORDS})")
    found: dict[str, Path] = {}
    for mask in picture_files(masks):
        name = case_id(mask, masks)
        name = name if name in files else _bare(name)
        name = name if name in files else next((f for f in (f"{name}_image", f"{name}_img") if f in files), name)
        if name not in files:
            raise InputError(f"{mask}: has no image {images / name}\nadd it, or remove the mask")
        if name in found:
            raise InputError(f"{mask} and {found[name]} are both masks of {files[name]}\nkeep one, of all classes")
        found[name] = mask
    if lone := next((name for name in files if name not in found), None):
        raise InputError(
            f"{files[lone]}: has no mask {masks / lone}\nadd it (all 0 where there is nothing), or remove the image"
        )
    return [(file, found[name]) for name, file in files.items()]


def _bare(name: str) -> str:
    """A mask's name without its suffix."""
    suffix = next((s for s in _SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), "")
    return name[: len(name) - len(suffix)]


def _spread(items: list[MaskItem], most: int) -> list[MaskItem]:
    """At most so many of them, evenly spread."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))]


def _channels(files: Sequence) -> tuple[str, ...]:
    """What images look like: CT by its DICOM header, colour where one is, else grey."""
    widths, kinds = set(), set()
    for file in files:
        volume = read_volume(file)
        widths.add(volume.pixels.shape[-1])
        kinds.add("CT" if volume.facts.hounsfield else "")
        if volume.grid.affine is not None and volume.pixels.shape[-1] > 1:
            return tuple(f"channel {k}" for k in range(volume.pixels.shape[-1]))
    return COLOUR if max(widths) == 3 else ("CT",) if kinds == {"CT"} else GREY


def _classes(
    root: Path, masks: Sequence[Path], classes: Sequence[str], values: Sequence[int]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """(names, {value: place among them, or IGNORE}) by what masks hold."""
    chosen = tuple(classes[1:] if classes and classes[0].lower() == "background" else classes)
    if values:
        if len(set(values)) < len(values) or len(values) != len(chosen) + 1:
            raise InputError(
                f"values {list(values)}: as many as classes and the background are wanted\nname both alike", usage=True
            )
        return ("background", *chosen), {int(value): k for k, value in enumerate(values)}
    held: set[int] = {0}
    for mask in masks:
        held |= {int(value) for value in np.unique(read_mask(mask)[0])}
    if held == {0}:
        raise InputError(f"{root}: no foreground in {len(masks)} masks: they hold only 0\ncheck the masks")
    if held == {0, IGNORE} and len(chosen) < 2:
        return ("background", *(chosen or ("foreground",))), {0: 0, IGNORE: 1}
    most = max(held - {IGNORE})
    if most > (len(chosen) or _MOST):
        shown = ", ".join(str(value) for value in sorted(held)[:8]) + (", ..." if len(held) > 8 else "")
        raise InputError(
            f"{root}: masks hold the values {shown}, which are no indices of {len(chosen) or _MOST} classes\n"
            "save 0 for the background, then 1, 2, ...; name all classes with --data.classes A B"
        )
    names = chosen or (("foreground",) if most == 1 else tuple(str(k) for k in range(1, most + 1)))
    return ("background", *names), {**{k: k for k in range(len(names) + 1)}, IGNORE: IGNORE}
