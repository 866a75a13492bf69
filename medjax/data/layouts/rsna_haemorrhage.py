"""RSNA Intracranial Haemorrhage (Kaggle 2019, stage 2): stage_2_train/*.dcm, and stage_2_train.csv with six rows a slice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medjax.data.folders import Item, by_split, case_id
from medjax.data.layouts import Layout
from medjax.data.tables import check_all_there
from medjax.errors import InputError
from medjax.extras import need
from medjax.files import cache_dir, write_json
from medjax.formats.table import open_table

IMAGES, TABLE = "stage_2_train", "stage_2_train.csv"
CLASSES = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")


def sources(path: str | Path) -> Layout:
    """Read the slices of the RSNA Intracranial Haemorrhage Detection challenge (Flanders et al., Radiology: AI 2020).

    Several of the six labels may be true of a slice; one without a row is missing. Slices of one patient, or of one study where
    the file names no patient, stay together: both are read from the headers of all files, which is done once and kept in the
    cache. A row that stands in the table twice, as some do, counts once.

    Args:
      path: the folder with stage_2_train.csv.

    Raises:
      InputError: no such table, rows that contradict each other, slices that are not there.
    """
    root = Path(path)
    if not (root / TABLE).is_file():
        raise InputError(f"{root}: holds no {TABLE}\ngive --data.path the folder of RSNA Intracranial Haemorrhage")
    labels = _labels(root / TABLE)
    files = {f.stem: f for f in (root / IMAGES).iterdir() if f.suffix == ".dcm"} if (root / IMAGES).is_dir() else {}
    check_all_there(root / TABLE, list(labels), files)
    wanted = {name: files[name] for name in sorted(labels)}
    patients = read_patients(wanted.values())
    items = [("all", Item(file, case_id(file, root), tuple(labels[name]), patients[file])) for name, file in wanted.items()]
    about = f"RSNA Intracranial Haemorrhage stage 2, {len(items):,} slices of {len({*patients.values()}):,} patients"
    if extra := len(files) - len(items):
        about += f"; {extra:,} files that the table does not name were left out"
    return Layout(by_split(items), CLASSES, "multi", about)


def sniff(path: str | Path) -> str:
    """Why this looks like RSNA Intracranial Haemorrhage; "" where it does not."""
    root = Path(path)
    return f"{TABLE} and {IMAGES} are there" if (root / TABLE).is_file() and (root / IMAGES).is_dir() else ""


def _labels(path: Path) -> dict[str, list[int]]:
    """{slice: its six labels} from rows "ID_0123_epidural,0"."""
    found: dict[str, list[int]] = {}
    place = {name: k for k, name in enumerate(CLASSES)}
    values = {"0": 0, "1": 1}
    with open_table(path) as (columns, lines):
        if columns[:2] != ("ID", "Label"):
            raise InputError(f"{path}: has the columns {', '.join(columns)}\nexpected ID, Label")
        for line in lines:
            name, _, kind = line[0].rpartition("_")
            text = line[1] if len(line) > 1 else ""
            if not name or kind not in place or text not in values:
                raise InputError(f"{path}: the row {','.join(line)!r} is no label\nexpected ID_..._epidural,0 and the like")
            label = found.setdefault(name, [-1] * len(CLASSES))
            if label[place[kind]] not in (-1, values[text]):
                raise InputError(f"{path}: two rows of {line[0]} disagree\nkeep what is true")
            label[place[kind]] = values[text]
    return found


def read_patients(files: Iterable[Path]) -> dict[Path, str]:
    """The patient of each DICOM file, or its study where it names none; "" where the header cannot be read.

    What was read is kept in the private cache, and asked for again only where a file's size or time has changed.
    """
    files = list(files)
    folder = str(files[0].parent.resolve()) if files else ""
    kept = cache_dir() / "headers" / f"{hashlib.sha256(folder.encode()).hexdigest()[:24]}.json"
    try:
        before = json.loads(kept.read_text())
    except (OSError, ValueError):
        before = {}
    stats = {file: (s := file.stat(), [s.st_size, s.st_mtime_ns])[1] for file in files}
    fresh = [file for file in files if before.get(file.name, [None])[:-1] != stats[file]]
    if fresh:
        pydicom = need("pydicom", extra="imaging")
        with ThreadPoolExecutor() as pool:  # it is the disk that takes the time
            for file, patient in zip(fresh, pool.map(lambda f: _patient(pydicom, f), fresh)):
                before[file.name] = [*stats[file], patient]
        write_json(kept, before)
    return {file: before[file.name][-1] for file in files}


def _patient(pydicom: object, file: Path) -> str:
    try:
        tags = ["PatientID", "StudyInstanceUID"]
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)  # type: ignore[attr-defined]
    except Exception:  # whatever is wrong with the file is told when it is prepared, where it can be skipped
        return ""
    return str(header.get("PatientID") or header.get("StudyInstanceUID") or "")
