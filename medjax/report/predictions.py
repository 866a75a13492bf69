"""What a finished run has said of its cases, read back from its folder."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax import metrics
from medjax.errors import InputError
from medjax.metrics import detection
from medjax.report.html import read_object

SPLITS = ("test", "cv", "val")  # the one that counts first
FIRST, MISSING, GROUP = ["id", "patient", "truth", "pred"], "missing", "group"
MEND = "restore the file, or evaluate the run again"


class Predictions(NamedTuple):
    """A run's report and its predictions of one split.

    Attributes:
      folder: of the run, as it was given.
      report: the content of report.json.
      classes: the K names.
      id: text [n], each once.
      patient: text [n], empty where unknown.
      label: int [n] or, with several labels a case, int8 [n, K]; -1 where it is missing.
      pred: int [n] or [n, K].
      score: float64 [n, K].
      group: text [n] of cases that belong together, such as near-copies; None where the table names none.
      measures: of a segmentation, {measure: float64 [n, K]} of each class in a case, NaN where it has none; its label, pred and
        score are empty. Of a detection what `medjax.metrics.detection.summarise` takes, and its label stands for a case's true
        boxes. None otherwise.
    """

    folder: Path
    report: dict[str, Any]
    classes: tuple[str, ...]
    id: np.ndarray
    patient: np.ndarray
    label: np.ndarray
    pred: np.ndarray
    score: np.ndarray
    group: np.ndarray | None = None
    measures: dict[str, np.ndarray] | None = None


def choose_split(folders: Sequence[Path]) -> str:
    """The first of test, cv and val that every one of the runs has predictions of.

    Raises:
      InputError: there is none.
    """
    for split in SPLITS:
        if all(_table_of(folder, split).is_file() for folder in folders):
            return split
    lacking = next((f for f in folders if not any(_table_of(f, split).is_file() for split in SPLITS)), None)
    if lacking is not None:
        raise InputError(f"{lacking}: has no predictions/test.csv\na run writes it when it ends: medjax resume {lacking}")
    raise InputError(f"{', '.join(map(str, folders))}: have no split in common\ncompare runs that were tested alike")


def read_predictions(folder: Path, split: str) -> Predictions:
    """Read RUN/report.json and RUN/predictions/SPLIT.csv of a classification, of one label a case or several, of a
    segmentation, or of a detection, whose boxes lie beside the table.

    Raises:
      InputError: one of them is not there, is damaged, or is of another task.
    """
    report = read_object(folder / "report.json", required=True)
    classes, path = tuple(report.get("classes") or ()), _table_of(folder, split)
    if report.get("task") == "segmentation":
        return _read_measures(folder, report, classes, path)
    if report.get("task") == "detection":
        return _read_boxes(folder, report, classes, path)
    columns = [*FIRST, *(f"score/{name}" for name in classes)]
    header, lines = _read_table(path)
    rest = header[len(columns) :]
    several = rest[:1] == [MISSING]
    if not classes or header[: len(columns)] != columns:
        raise InputError(f"{path}: is not of a classification into the classes of report.json\n{MEND}")
    k, read = len(classes), _read_labels if several else _read_label
    missing, group = len(columns), header.index(GROUP) if GROUP in rest else None
    columns_of: tuple[list, ...] = ([], [], [], [], [])
    for number, line in lines:
        try:
            values = (*line[:2], *read(line, classes, missing), [float(value) for value in line[len(FIRST) : len(FIRST) + k]])
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}\n{MEND}") from error
        for column, value in zip(columns_of, values, strict=True):
            column.append(value)
    case, patient, label, pred, score = columns_of
    shape = (len(lines), k) if several else (len(lines),)
    return Predictions(
        folder,
        report,
        classes,
        np.array(case, str),
        np.array(patient, str),
        np.array(label, np.int64).reshape(shape),
        np.array(pred, np.int64).reshape(shape),
        np.array(score, np.float64).reshape(len(lines), k),
        None if group is None else np.array([line[group] for _, line in lines], str),
    )


def _read_measures(folder: Path, report: dict[str, Any], classes: tuple[str, ...], path: Path) -> Predictions:
    header, lines = _read_table(path)
    there = [name for name in metrics.SEGMENTATION_MEASURES if all(f"{name}/{label}" in header for label in classes)]
    if not classes or header[:2] != FIRST[:2] or not there:
        raise InputError(f"{path}: is not of a segmentation into the classes of report.json\n{MEND}")
    try:
        found = {
            name: np.array([[float(line[header.index(f"{name}/{label}")] or "nan") for label in classes] for _, line in lines])
            for name in there
        }
    except ValueError as error:
        raise InputError(f"{path}: {error}\n{MEND}") from error
    none = np.zeros(len(lines), np.int64)
    case, patient = (np.array([line[i] for _, line in lines], str) for i in (0, 1))
    group = np.array([line[header.index(GROUP)] for _, line in lines], str) if GROUP in header else None
    return Predictions(folder, report, classes, case, patient, none, none, np.zeros((len(lines), 0)), group, found)


def _read_boxes(folder: Path, report: dict[str, Any], classes: tuple[str, ...], path: Path) -> Predictions:
    """Detections matched with the true boxes anew, from SPLIT.csv, SPLIT.json and SPLIT_truth.json."""
    header, lines = _read_table(path)
    truth_path, found_path = (path.with_name(f"{path.stem}{ending}.json") for ending in ("_truth", ""))
    truth = read_object(truth_path, required=True)
    try:
        kinds = [of["id"] for of in truth["categories"]]
        number = {image["file_name"]: image["id"] for image in truth["images"]}
        true = _boxes_by_image(truth["annotations"], kinds, "iscrowd")
        given = _boxes_by_image(json.loads(found_path.read_text(encoding="utf-8")), kinds, "score")
        rule = detection.Rule(float(truth["info"]["hit_iou"]))
        same = [of["name"] for of in truth["categories"]] == list(classes) and header[:4] == FIRST
        kept = np.array([[int(line[3])] for _, line in lines])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{found_path}, or {truth_path.name}: are no boxes in COCO's form ({error!r})\n{MEND}") from error
    if not same:
        raise InputError(f"{path}: is not of a detection of the classes of report.json\n{MEND}")
    most = max(map(len, given.values()), default=0)
    label, judged = np.full(len(lines), -1), []
    for i, (_, line) in enumerate(lines):
        own, mine = (of.get(number.get(line[0]), np.zeros((0, 6))) for of in (true, given))
        padded = np.zeros((most, 6))
        padded[:, 4] = -1
        padded[: len(mine)] = mine[np.argsort(-mine[:, 5], kind="stable")]
        score, category = padded[:, 5], padded[:, 4].astype(int)
        args = padded[:, :4], score, category, own[:, :4], own[:, 4].astype(int), own[:, 5] > 0
        marks = detection.judge(*args, classes=len(classes), rule=rule)
        judged.append({"score": score, "category": category, **marks})
        if line[0] in number:  # the same boxes, the same label
            label[i] = int.from_bytes(hashlib.sha256(np.round(own, 2).tobytes()).digest()[:6], "big")
    rows = {name: np.stack([of[name] for of in judged]) for name in judged[0]}
    # Those of the highest scores were kept.
    rows["kept"] = (np.arange(most) < kept) & (rows["category"] >= 0)
    rows["challenge"] = detection.rsna(rows["kept"], rows["rsna"], rows["lesions"].sum(1))
    case, patient = (np.array([line[i] for _, line in lines], str) for i in (0, 1))
    group = np.array([line[header.index(GROUP)] for _, line in lines], str) if GROUP in header else None
    none = np.zeros(len(lines), np.int64)
    return Predictions(folder, report, classes, case, patient, label, none, np.zeros((len(lines), 0)), group, rows)


def _boxes_by_image(listed: list[dict[str, Any]], kinds: list[int], last: str) -> dict[Any, np.ndarray]:
    """{image_id: float64 [m, 6]}: left, top, right, bottom, place of the class, and the field `last`."""
    found: dict[Any, list[list[float]]] = {}
    for of in listed:
        x, y, w, h = of["bbox"]
        found.setdefault(of["image_id"], []).append([x, y, x + w, y + h, kinds.index(of["category_id"]), of[last]])
    return {number: np.array(rows, np.float64) for number, rows in found.items()}


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(names of the columns, (number, fields) of each further line): lines as long as the first, each id once."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lines = [(reader.line_num, line) for line in reader]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\n{MEND}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no UTF-8 table ({error})\n{MEND}") from error
    if odd := next((number for number, line in lines if len(line) != len(header)), None):
        raise InputError(f"{path}, line {odd}: does not have the {len(header)} columns of the first line\n{MEND}")
    seen: set[str] = set()
    for number, line in lines:
        if line[0] in seen:
            raise InputError(
                f"{path}, line {number}: the id {line[0]!r} is there twice\ngive the files of the data other names"
            )
        seen.add(line[0])
    return header, lines


def _read_label(line: list[str], classes: tuple[str, ...], missing: int) -> tuple[int, int]:
    """(label, pred) of a row with one label."""
    truth, pred = line[2:4]
    return _number(truth, classes) if truth else -1, _number(pred, classes)


def _read_labels(line: list[str], classes: tuple[str, ...], missing: int) -> tuple[np.ndarray, np.ndarray]:
    """(label, pred) int8 [K] of a row with several labels, whose column `missing` names those not known."""
    truth, pred, unknown = (_flags(names, classes) for names in (line[2], line[3], line[missing]))
    if np.any(truth * unknown):
        raise ValueError("a class is both true and missing")
    return truth - unknown, pred


def _flags(names: str, classes: tuple[str, ...]) -> np.ndarray:
    """int8 [K], 1 for each of the names in "A|B"."""
    flags = np.zeros(len(classes), np.int8)
    flags[[_number(name, classes) for name in names.split("|")] if names else []] = 1
    return flags


def _number(name: str, classes: tuple[str, ...]) -> int:
    if name not in classes:
        raise ValueError(f"{name!r} is none of the classes")
    return classes.index(name)


def _table_of(folder: Path, split: str) -> Path:
    return folder / "predictions" / f"{split}.csv"
