"""Medical Segmentation Decathlon: dataset.json with imagesTr/ and labelsTr/ of 3-D or 4-D NIfTI, such as Task04_Hippocampus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medjax.data.dataset_json import NAME, read_channels, read_json, read_labels
from medjax.data.folders import case_id
from medjax.data.layouts import Layout
from medjax.data.volumes import MaskItem, by_split
from medjax.errors import InputError


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read a task of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

    The training cases are those that dataset.json lists. Its test cases have no labels, so that they are left out.

    Args:
      path: the folder with dataset.json.
      classes: the labels to take, in this order; all by default. What is not named is background.

    Returns:
      A Layout of kind "masks", its source under "all": the Decathlon gives no splits.

    Raises:
      InputError: a dataset.json that cannot be used, files that it lists and that are not there.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\ngive --data.path a task's, such as Task04_Hippocampus")
    file = root / NAME
    about = read_json(file)
    channels, (names, values) = read_channels(file, about), read_labels(file, about, classes)
    items = []
    for entry in _training(file, about):
        image, mask = root / entry["image"], root / entry["label"]
        for lacking in (image, mask):
            if not lacking.is_file():
                raise InputError(f"{lacking}: no such file, though {NAME} lists it\nadd it, or remove the case from {file}")
        items.append(("all", MaskItem((image,), case_id(image, root), mask)))
    name, kinds = about.get("name") or root.name, ", ".join(channels)
    words = f"{name}, {len(items):,} volumes ({kinds}) with masks of {len(names) - 1} classes"
    if unlabelled := len(about.get("test") or ()):
        words += f"; {unlabelled:,} test volumes have no masks and are left out"
    return Layout(by_split(items, names, channels, values=values), names, "masks", words)


def sniff(path: str | Path) -> str:
    """Why this looks like the Decathlon; "" where it does not."""
    root = Path(path)
    if not (root / NAME).is_file():
        return ""
    try:
        about = read_json(root / NAME)
        listed = _training(root / NAME, about)
    except InputError:
        return ""
    # nnU-Net's older datasets list CASE.nii.gz where CASE_0000.nii.gz lies.
    there = (root / listed[0]["image"]).is_file() or not any((root / "imagesTr").glob("*_0000.*"))
    return f"{NAME} lists training images and labels" if there and "channel_names" not in about else ""


def _training(file: Path, about: dict[str, Any]) -> list[dict[str, str]]:
    """[{"image", "label"}] of the training cases."""
    listed = about.get("training")
    if not isinstance(listed, list) or not listed:
        raise InputError(f'{file}: lists no training cases\nadd "training": [{{"image": "./imagesTr/...", "label": "./..."}}]')
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise InputError(f"{file}: training case {number} names no image and label\ngive both paths")
    return listed
