"""Any picture file -> pixels and facts: PNG, JPEG, TIFF, BMP, DICOM and NIfTI, told apart by their content."""

from __future__ import annotations

import os
from pathlib import Path

from medjax.errors import InputError
from medjax.formats.dicom import is_dicom, read_dicom
from medjax.formats.facts import Facts, Picture, first_bytes
from medjax.formats.image import IMAGE_ENDINGS, image_kind, read_image
from medjax.formats.nifti import is_nifti, read_nifti

__all__ = ["PICTURE_ENDINGS", "Facts", "Picture", "picture_files", "read_picture"]

PICTURE_ENDINGS = (*IMAGE_ENDINGS, ".dcm", ".dicom", ".ima", ".nii", ".nii.gz")

_HEAD = 1024
_KINDS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"


def read_picture(path: str | Path) -> Picture:
    """Read a picture, recognised by its content: what the file is called does not matter.

    See `read_image`, `read_dicom` and `read_nifti` for what each kind gives.

    Raises:
      InputError: not there, empty, none of the kinds, or refused by the kind's reader.
    """
    path = Path(path)
    head = first_bytes(path, _HEAD)
    if is_dicom(head):  # before TIFF: the preamble may make one file both
        return read_dicom(path)
    if image_kind(head):
        return Picture(read_image(path), Facts())
    if is_nifti(head):
        return read_nifti(path)
    raise InputError(f"{path}: no picture: starts with {head[:8]!r}\nexpected {_KINDS}")


def picture_files(folder: str | Path) -> list[Path]:
    """Picture files at any depth of a folder, sorted.

    Those with one of PICTURE_ENDINGS, and DICOM files without an ending (or named by a UID, whose last part is a number).
    Hidden files, files in hidden folders, and DICOMDIR indices are left out.

    Raises:
      InputError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder\ncheck the path")
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base) / name for name in names if not name.startswith(".") and _is_picture(Path(base) / name)]
    return sorted(found)


def _is_picture(path: Path) -> bool:
    if path.name.lower().endswith(PICTURE_ENDINGS):
        return True
    ending = path.suffix[1:]
    if (ending and not ending.isdigit()) or path.name.upper() == "DICOMDIR":
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False
