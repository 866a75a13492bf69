"""Images to restore as Sources: whole ones to be made worse, worse ones beside better ones, and those a user hands over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.console import say
from medjax.data.folders import SPLIT_NAMES, case_id
from medjax.data.volumes import GREY, MaskItem, MaskSource, volume_source
from medjax.errors import InputError
from medjax.formats.dicom import is_dicom
from medjax.formats.facts import first_bytes
from medjax.formats.series import Series, read_slices

Role = Literal["degrade", "pair", "given"]


class RestoreSource:
    """Cases as examples {id, patient, path, image [D, H, W, C], role, grid...}, and `target` [D, H', W', C] of pairs.

    The role says what the image is: "degrade" the truth, to be made worse; "pair" the worse one of two; "given" an image to be
    restored, whose truth nobody knows. The grid's columns are those of `medjax.formats.volume.grid_columns`; the `form` is that
    in which a restored image is written, "dicom" for single DICOM files too, which `files` then names.

    Attributes:
      images: the cases.
      role: see above.
      targets: of pairs, the better ones, in the same order.
    """

    def __init__(self, images: MaskSource, role: Role, targets: MaskSource | None = None):
        self.images, self.role, self.targets = images, role, targets
        self.channels = images.channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """See the class.

        Raises:
          InputError: a target that is not a whole number of times as large as its image, and what the readers raise.
        """
        example = {name: value for name, value in self.images[i].items() if name not in ("mask", "label")}
        example |= {"role": self.role, "label": np.int8(-1)}
        path = Path(example["path"])
        if example["form"] == "png" and is_dicom(first_bytes(path, 132)):
            example |= {"form": "dicom", "files": str(path)}
        if self.targets is None:
            return example
        other = self.targets[i]
        small, large = example["image"].shape, other["image"].shape
        factor = large[1] // small[1]
        if factor < 1 or (small[0], small[1] * factor, small[2] * factor, small[3]) != large:
            raise InputError(
                f"{other['path']}: is {_size(large)}, its worse image {path} {_size(small)}\n"
                "pairs must be of one size, or the better image larger by a whole factor"
            )
        return {**example, "target": other["image"]}

    def case_id(self, i: int) -> str:
        """The id of a case, also where its files cannot be read."""
        return self.images.case_id(i)

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by."""
        yield self.role
        yield from self.images.identity()
        if self.targets is not None:
            yield from self.targets.identity()


def _size(shape: Sequence[int]) -> str:
    d, h, w, c = shape
    return f"{f'{d} slices of ' if d > 1 else ''}{h} x {w}{f' of {c} channels' if c > 1 else ''}"


def whole_images(path: str | Path, *, channels: Sequence[str] = GREY) -> dict[str, RestoreSource]:
    """{split or "all": Source} of every image below a folder, to be made worse and restored.

    Pictures, NIfTI volumes, DICOM slices and series, at any depth; the files of a series that is no whole stack count each.
    Top folders called train, val or test are those splits. An optional metadata.csv is as in
    `medjax.data.layouts.class_folders`.

    Raises:
      InputError: no such folder, no images, and what `volume_source` raises.
    """
    from medjax.data.layouts.class_folders import _metadata

    root = Path(path)
    if not root.exists():
        raise InputError(f"{root}: no such file or folder\ngive images, or a folder of them, that exists")
    look_up = _metadata(root)[1] if root.is_dir() else lambda file, key: ("", "")
    found: dict[str, list[MaskItem]] = {}
    for item in _items([root], channels):
        first = item.images[0]
        patient, split, *_ = look_up(first.files[0] if hasattr(first, "files") else first, item.id)
        split = split or SPLIT_NAMES.get(item.id.partition("/")[0].lower(), "all")
        found.setdefault(split, []).append(item._replace(patient=patient))
    if "all" in found and len(found) > 1:
        stray = found["all"][0].id
        raise InputError(f"{root}: {stray} is in none of the splits that other images are in\nmove it into one of them")
    return {split: RestoreSource(MaskSource(items, ("background",), channels), "degrade") for split, items in found.items()}


def pairs(items: Mapping[str, Sequence[tuple[MaskItem, Path | Series]]], channels: Sequence[str]) -> dict[str, RestoreSource]:
    """{split: Source} of (worse image, file or series of the better one) by split."""
    found = {}
    for split, both in items.items():
        worse = MaskSource([item for item, _ in both], ("background",), channels)
        better = MaskSource([item._replace(images=(file,)) for item, file in both], ("background",), channels)
        found[split] = RestoreSource(worse, "pair", better)
    return found


def given_images(inputs: Sequence[str | Path], *, channels: Sequence[str] = GREY) -> RestoreSource:
    """Images that a user names for restoration: files, folders, folders of DICOM series. See `volume_source`."""
    return RestoreSource(MaskSource(_items(inputs, channels), ("background",), channels), "given")


def _items(inputs: Sequence[str | Path], channels: Sequence[str]) -> list[MaskItem]:
    """As `volume_source` lists them, but DICOM files of a series that is no whole stack are pictures, each by itself."""
    items: list[MaskItem] = []
    apart = 0
    for item in volume_source(inputs, channels=channels, classes=1).items:
        series = item.images[0]
        if isinstance(series, Series):
            try:
                read_slices(series)
            except InputError:
                folder = series.files[0].parent
                where = item.id.removesuffix(series.uid).rstrip("/")
                prefix = f"{where}/" if where and where != folder.resolve().name else ""
                items += [MaskItem((file,), f"{prefix}{case_id(file, folder)}") for file in series.files]
                apart += 1
                continue
        items.append(item)
    if apart:
        say(f"{apart} DICOM series are no whole stacks: their files are taken as single slices")
    return items


def content_seed(image: np.ndarray) -> int:
    """A seed that is a function of the pixels: the same image is made worse in the same way wherever it lies."""
    import hashlib

    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()[:8], "little")
