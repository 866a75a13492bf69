"""PATH/annotation.json and PATH/images: reports with their pictures, in the form that R2Gen gave IU X-ray and MIMIC-CXR."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.errors import InputError
from medjax.formats.picture import read_picture

FILE, FOLDER = "annotation.json", "images"
_WHERE = 'expected {"train": [{"id": "CXR1", "report": "...", "image_path": ["CXR1/0.png"]}], "val": ..., "test": ...}'


class Study(NamedTuple):
    """Pictures and their report.

    Attributes:
      id: of the case.
      report: "" where it is not known.
      pictures: files, in their order.
      patient: "" where it is unknown.
    """

    id: str
    report: str
    pictures: tuple[Path, ...]
    patient: str = ""


class StudySource:
    """Studies as examples {id, patient, label -1, path, target, image: the first picture [H, W] or [H, W, 3] in its file's
    dtype, others: a list of the others}.

    Args:
      studies: in their order.
      looking: whether pictures are read.
    """

    def __init__(self, studies: Iterable[Study], *, looking: bool = True):
        self.studies = list(studies)
        self.looking = looking

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, i: int) -> dict[str, Any]:
        of = self.studies[i]
        known = {"id": of.id, "patient": of.patient, "label": -1, "path": str(of.pictures[0]), "target": of.report}
        if not self.looking:
            # A number of its own: studies with the same report are not the same study.
            return {**known, "number": np.int64(zlib.crc32(of.id.encode()))}
        pictures = [read_picture(path).pixels for path in of.pictures]
        return {**known, "image": pictures[0], "others": pictures[1:]}

    def blind(self) -> StudySource:
        """The same studies without their pictures."""
        return StudySource(self.studies, looking=False)

    def case_id(self, i: int) -> str:
        """The id of a study, also where a file of it cannot be read."""
        return self.studies[i].id

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by."""
        yield f"{self.looking}"
        for study in self.studies:
            yield repr(study)
            for path in study.pictures:
                try:
                    stat = path.stat()
                    yield f"{stat.st_size}|{stat.st_mtime_ns}"
                except OSError as error:  # told when it is read
                    yield str(error.strerror)


def sources(path: str | Path) -> Layout:
    """Read annotation.json: of each split a list of {"id", "report", "image_path": [files below images/]}, and "subject_id"
    where patients are known.

    Args:
      path: the folder, or the JSON file in it.

    Returns:
      A Layout of kind "pairs" with `texts` of ("target",).

    Raises:
      InputError: no such file, JSON of another form, a study without pictures or whose pictures are not there, an id twice.
    """
    file = _file(Path(path))
    images = file.parent / FOLDER
    parts: dict[str, list[Study]] = {}
    seen: dict[str, str] = {}
    for name, entries in _read(file).items():
        split = SPLIT_NAMES.get(name.lower(), "")
        if not split:
            raise InputError(f"{file}: {name!r} is no split\ncall it train, val or test")
        for entry in entries:
            study = _study(file, images, entry)
            if study.id in seen:
                raise InputError(f"{file}: two studies have the id {study.id!r}\nkeep one of them")
            seen[study.id] = split
            parts.setdefault(split, []).append(study)
    n, pictures = len(seen), sum(len(s.pictures) for of in parts.values() for s in of)
    if not n:
        raise InputError(f"{file}: holds no studies\n{_WHERE}")
    about = f"{n:,} reports of {pictures:,} pictures"
    return Layout({split: StudySource(of) for split, of in parts.items()}, (), "pairs", about, texts=("target",))


def sniff(path: str | Path) -> str:
    """Why this looks like pictures with reports; "" where it does not."""
    try:
        found = _read(_file(Path(path)))
    except InputError:
        return ""
    entries = next((of for of in found.values() if of), [])
    return f"{FILE} lists reports with their pictures" if entries and "image_path" in entries[0] else ""


def _file(path: Path) -> Path:
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".json":
        raise InputError(f"{file}: no such file\n{_WHERE}")
    return file


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})\nmend the file") from error
    lists: list[Any] = list(found.values()) if isinstance(found, dict) else [None]
    if not all(isinstance(of, list) and all(isinstance(entry, dict) for entry in of) for of in lists):
        raise InputError(f"{file}: is of another form\n{_WHERE}")
    return found


def _study(file: Path, images: Path, entry: dict[str, Any]) -> Study:
    name, report, files = entry.get("id"), entry.get("report"), entry.get("image_path")
    files = [files] if isinstance(files, str) else files
    if not isinstance(name, str | int) or not isinstance(report, str) or not _strings(files):
        raise InputError(f"{file}: the study {name!r} lacks an id, a report, or pictures\n{_WHERE}")
    paths = tuple(images / part for part in files)
    for path in paths:
        if images.resolve() not in path.resolve().parents:
            raise InputError(f"{file}: the study {name!r} names {path}, which is not in {FOLDER}/\nput its pictures there")
        if not path.is_file():
            raise InputError(f"{path}: no such file, though {file.name} names it\nadd it, or take the study {name!r} out")
    return Study(str(name), report, paths, str(entry.get("subject_id", "")))


def _strings(files: Any) -> TypeGuard[list[str]]:
    return isinstance(files, Sequence) and bool(files) and all(isinstance(part, str) for part in files)
