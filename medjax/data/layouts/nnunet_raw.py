"""nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz (a file for each channel), labelsTr/CASE.nii.gz, perhaps splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.data.dataset_json import NAME, read_channels, read_json, read_labels
from medjax.data.layouts import Layout
from medjax.data.volumes import MaskItem, by_split, channel_files
from medjax.errors import InputError
from medjax.formats.picture import PICTURE_ENDINGS

SPLITS = "splits_final.json"


def sources(path: str | Path, *, classes: Sequence[str] = (), splits: str | Path = "", fold: int = 0) -> Layout:
    """Read a data set in the raw format of nnU-Net v2 (Isensee et al., Nature Methods 2021), or v1.

    Masks hold the labels of dataset.json; one called "ignore", the highest, is not annotated. imagesTs with labelsTs is the
    test split. splits_final.json gives training and validation.

    Args:
      path: the folder with dataset.json.
      classes: the labels to take, in this order; all by default. What is not named is background.
      splits: splits_final.json, or the folder with it, where it does not lie beside dataset.json.
      fold: of splits_final.json, counted from 0.

    Returns:
      A Layout of kind "masks"; without splits its training cases are under "train" where there is a test split, else "all".

    Raises:
      InputError: a dataset.json or splits_final.json that cannot be used, a case without an image, a channel or a mask, another
        number of cases than numTraining.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\ngive --data.path a data set's, such as nnUNet_raw/Dataset004_Hippocampus")
    file = root / NAME
    about = read_json(file)
    channels, (names, values) = read_channels(file, about), read_labels(file, about, classes)
    ending = str(about.get("file_ending", ".nii.gz"))
    if ending not in PICTURE_ENDINGS:
        raise InputError(f"{file}: file_ending {ending!r} is not read here\nconvert the images, to .nii.gz for instance")
    cases = _cases(root, "Tr", ending, len(channels))
    if not cases:
        raise InputError(f"{root / 'imagesTr'}: holds no images CASE_0000{ending}\ncopy the data set again")
    counted = about.get("numTraining", len(cases))
    if counted != len(cases):
        raise InputError(
            f"{file}: numTraining is {counted}, and imagesTr holds {len(cases)} cases\nadd the rest, or correct it"
        )
    test = _cases(root, "Ts", ending, len(channels)) if (root / "labelsTs").is_dir() else {}
    given, note = _fold(root, Path(splits) if splits else root, fold, list(cases), named=bool(splits))
    items = [(given.get(name, ""), item) for name, item in cases.items()]
    items = [(split or ("train" if test else "all"), item) for split, item in items if split or not given]
    items += [("test", item) for item in test.values()]
    name, kinds = about.get("name") or root.name, ", ".join(channels)
    words = f"{name}, {len(items):,} volumes ({kinds}) with masks of {len(names) - 1} classes{note}"
    if not test and (root / "imagesTs").is_dir():
        words += "; imagesTs has no masks and is left out"
    return Layout(by_split(items, names, channels, values=values), names, "masks", words)


def sniff(path: str | Path) -> str:
    """Why this looks like nnU-Net's raw data; "" where it does not."""
    root = Path(path)
    if not (root / NAME).is_file():
        return ""
    try:
        about = read_json(root / NAME)
    except InputError:
        return ""
    described = "labels" in about and ("channel_names" in about or "modality" in about)
    there = described and any(not file.name.startswith(".") for file in (root / "imagesTr").glob("*_0000.*"))
    return f"{NAME} names channels and labels, and imagesTr holds CASE_0000" if there else ""


def _cases(root: Path, part: str, ending: str, channels: int) -> dict[str, MaskItem]:
    """{case: item} of imagesTr or imagesTs, each with its mask."""
    folder, masks = root / f"images{part}", root / f"labels{part}"
    if not folder.is_dir():
        return {}
    files = [f for f in sorted(folder.iterdir()) if f.name.endswith(ending) and not f.name.startswith(".")]
    found = {}
    for name, images in channel_files(files, folder, channels).items():
        mask = masks / f"{name}{ending}"
        if not mask.is_file():
            raise InputError(f"{images[0]}: has no mask {mask}\nadd it, or remove the case")
        found[name] = MaskItem(images, f"{folder.name}/{name}", mask)
    there = (f for f in sorted(masks.iterdir()) if f.name.endswith(ending) and not f.name.startswith("."))
    if lone := next((f for f in there if f.name.removesuffix(ending) not in found), None):
        raise InputError(
            f"{lone}: has no image {folder / lone.name.removesuffix(ending)}_0000{ending}\nadd it, or remove the mask"
        )
    return found


def _fold(root: Path, where: Path, fold: int, cases: Sequence[str], *, named: bool) -> tuple[Mapping[str, str], str]:
    """({case: train or val}, words about it); empty without a file of splits."""
    file = where / SPLITS if where.is_dir() else where
    if not file.is_file() and not named:
        return {}, ""
    folds = read_json(file, list)
    if not 0 <= fold < len(folds):
        raise InputError(f"{file}: has {len(folds)} folds, and no fold {fold}\ncount from 0", usage=True)
    found: dict[str, str] = {}
    for split in ("train", "val"):
        for name in _names(file, folds[fold], split):
            if name not in cases:
                raise InputError(
                    f"{file}: fold {fold} names {name!r}, which {root / 'imagesTr'} does not hold\nadd it, or mend the file"
                )
            if found.setdefault(name, split) != split:
                raise InputError(f"{file}: fold {fold} has {name!r} in train and in val\nkeep it in one")
    left = len(cases) - len(found)
    return found, f"; fold {fold} of {len(folds)} in {SPLITS}" + (
        f", without {left:,} cases that it does not name" if left else ""
    )


def _names(file: Path, fold: Any, split: str) -> list[str]:
    names = fold.get(split) if isinstance(fold, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{file}: is no list of {{"train": [cases], "val": [cases]}}\nmake it anew, or remove it')
    return names
