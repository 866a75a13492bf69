"""ICD-10-CM: 46,881 descriptions of diagnoses in 22 chapters, from simple-icd-10-cm's wheel; public-domain text of the US."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from medjax.core import SPLITS
from medjax.data.layouts import Layout
from medjax.data.split import split_groups
from medjax.data.texts import Document, TextSource
from medjax.data.wheels import Wheel, fetch
from medjax.errors import InputError

ICD10CM = Wheel(
    package="simple-icd-10-cm",
    version="1.5.0",
    sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    licence="wheel MIT; ICD-10-CM of the US National Center for Health Statistics is in the public domain",
    files=("simple_icd_10_cm/data/icd10c-tabular-*.xml",),
    size=1_076_390,
)
Target = Literal["chapter", "category"]
FRACTIONS = (0.65, 0.15, 0.2)  # of train, val and test
LEAST = 20  # codes of a category that is to be told from others


class Code(NamedTuple):
    """A diagnosis of the tabular list."""

    code: str
    text: str
    category: str  # its first three characters' code
    chapter: str  # "1 infectious"


def read_codes(path: str | Path) -> list[Code]:
    """Every diagnosis of a tabular list in XML, in its order.

    Raises:
      InputError: it is no such file.
    """
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise InputError(f"{path}: cannot be read as the tabular list of ICD-10-CM ({error})\nfetch it again") from error
    found = [
        code
        for chapter in root.findall("chapter")
        for diagnosis in chapter.findall("section/diag")
        for code in _below(diagnosis, _chapter(chapter), "")
    ]
    if not found:
        raise InputError(f"{path}: holds no chapter with diagnoses\nfetch the tabular list of ICD-10-CM again")
    return found


def _chapter(chapter: ET.Element) -> str:
    """A chapter's number and what it is of, in few words: "9 circulatory system", "19 Injury, poisoning"."""
    words = _text(chapter, "desc").rpartition(" (")[0]
    words = re.sub(r"^(Diseases of( the)?|Certain( conditions originating in the)?) ", "", words)
    words = re.split(r" and |, not ", words)[0]
    return f"{_text(chapter, 'name')} {words}"


def _text(of: ET.Element, name: str) -> str:
    return " ".join((of.findtext(name) or "").split())


def _below(diagnosis: ET.Element, chapter: str, category: str) -> Iterator[Code]:
    code = _text(diagnosis, "name")
    yield Code(code, _text(diagnosis, "desc"), category or code, chapter)
    for child in diagnosis.findall("diag"):
        yield from _below(child, chapter, category or code)


def diagnoses(target: Target = "chapter") -> Layout:
    """Descriptions of diagnoses to be put into chapters or categories; the wheel is fetched at first use.

    For chapters a `patient` is a category: its codes are worded alike, and stay in one split. For categories, of which those
    with `LEAST` codes or more are taken, each description stands for itself.

    Returns:
      A Layout of kind "single" with splits of `FRACTIONS`; a case's id is its code.
    """
    (path,) = (fetch(ICD10CM) / "simple_icd_10_cm" / "data").glob("icd10c-tabular-*.xml")
    codes = read_codes(path)
    if target == "category":
        sizes: dict[str, int] = {}
        for code in codes:
            sizes[code.category] = sizes.get(code.category, 0) + 1
        codes = [code for code in codes if sizes[code.category] >= LEAST]
    # In the order of the list; of dictionaries, keys keep theirs.
    classes = tuple(dict.fromkeys(getattr(code, target) for code in codes))
    places = {name: k for k, name in enumerate(classes)}
    label = np.array([places[getattr(code, target)] for code in codes])
    patient = [code.category if target == "chapter" else "" for code in codes]
    group = np.unique(patient, return_inverse=True)[1] if target == "chapter" else np.arange(len(codes))
    # A chapter of two categories cannot stand in three splits, which is why the data brings its own.
    where = split_groups(group, label, FRACTIONS, seed=0, classes=classes, strict=False)
    parts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for code, k, of, p in zip(codes, label.tolist(), patient, where.tolist(), strict=True):
        parts[SPLITS[p]].append(Document(code.code, code.text, k, of, path.name))
    named = "chapters" if target == "chapter" else "categories"
    about = f"{len(codes):,} descriptions of ICD-10-CM, each of one of {len(classes)} {named}"
    return Layout({split: TextSource(of) for split, of in parts.items()}, classes, "single", about, texts=("text",))
