"""IU X-ray (Open-i): PATH/**/*.xml or NLMCXR_reports.tgz, reports with terms: to be labelled, or findings to impression."""

from __future__ import annotations

import itertools
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medjax.data.layouts import Layout
from medjax.data.records import Tally
from medjax.data.texts import Document, TextSource, check_ids
from medjax.errors import InputError

SECTIONS = ("comparison", "indication", "findings", "impression")
LACKING = "reports without findings or without an impression, left out"
UNLABELLED = "reports without any MeSH term, kept without labels"
_WHERE = 'expected XML reports with <uId id="CXR1"/> and <AbstractText Label="FINDINGS">'


class Report(NamedTuple):
    """A report as its file has it.

    Attributes:
      id: such as "CXR1".
      sections: {name out of SECTIONS: text}, "" for none.
      terms: major MeSH terms without their qualifiers, such as "Cardiomegaly".
    """

    id: str
    sections: dict[str, str]
    terms: tuple[str, ...]


def sources(path: str | Path, *, write: bool = False, classes: Sequence[str] = (), least: int = 20) -> Layout:
    """Read reports of chest X-rays (Demner-Fushman et al., JAMIA 2016). Words that were taken out stand as XXXX, and stay.

    Args:
      path: a folder of .xml files, or one further up, or the archive of them.
      write: findings are the text, the impression is what is to be written, and reports that lack either are left out and
        counted. By default findings and impression together are the text, and the terms are the labels.
      classes: the terms, in their order; those of `least` reports or more, sorted, by default.
      least: reports that a term must have.

    Returns:
      A Layout of kind "pairs" or "multi".

    Raises:
      InputError: no such files, one that is no report, an id twice.
    """
    root = Path(path)
    found = sorted(_contents(root))
    if not found:
        raise InputError(f"{root}: holds no .xml file\n{_WHERE}")
    files = [file for file, _ in found]
    reports = [read_report(file, content) for file, content in found]
    tally: Tally = Counter()
    if write:
        whole = [(r, f) for r, f in zip(reports, files, strict=True) if r.sections["findings"] and r.sections["impression"]]
        tally[LACKING, ""] = len(reports) - len(whole)
        documents = [Document(r.id, r.sections["findings"], path=str(f), target=r.sections["impression"]) for r, f in whole]
        names: tuple[str, ...] = ()
    else:
        counts = Counter(term for r in reports for term in r.terms)
        names = tuple(classes) or tuple(sorted(term for term, n in counts.items() if n >= least))
        if len(names) < 2:
            raise InputError(f"{root}: fewer than two MeSH terms stand in {least} reports or more\ngive more reports")
        tally[UNLABELLED, ""] = sum(not r.terms for r in reports)
        documents = [_labelled(r, str(f), names) for r, f in zip(reports, files, strict=True)]
    check_ids(documents, root)
    about = f"{len(documents):,} reports of chest X-rays: " + (
        "findings to impression" if write else f"{len(names)} MeSH terms"
    )
    kind: Any = "pairs" if write else "multi"
    parts = ("text", "target") if write else ("text",)
    return Layout({"all": TextSource(documents, +tally, files if root.is_dir() else [root])}, names, kind, about, texts=parts)


def sniff(path: str | Path) -> str:
    """Why this looks like IU X-ray; "" where it does not."""
    root = Path(path)
    for file, content in itertools.islice(_contents(root), 3):
        try:
            read_report(file, content)
        except InputError:
            continue
        return f"{file.name} is a radiology report"
    return ""


def _contents(root: Path) -> Iterator[tuple[Path, bytes | None]]:
    """(file, its content where it lies in an archive) of every .xml file.

    Raises:
      InputError: an archive that cannot be read.
    """
    if root.is_dir():
        yield from ((file, None) for file in root.rglob("*.xml"))
    elif root.name.endswith((".tgz", ".tar.gz", ".tar")):
        try:
            with tarfile.open(root) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".xml"):
                        content = archive.extractfile(member)
                        yield root / member.name, content.read() if content else b""
        except (OSError, tarfile.TarError, EOFError) as error:
            raise InputError(f"{root}: cannot be read as an archive of reports ({error})\nfetch it again") from error


def _labelled(report: Report, path: str, names: tuple[str, ...]) -> Document:
    text = "\n".join(part for name in ("findings", "impression") if (part := report.sections[name]))
    return Document(report.id, text, tuple(int(name in report.terms) if report.terms else -1 for name in names), path=path)


def read_report(file: Path, content: bytes | None = None) -> Report:
    """One report, of a file or of its `content`.

    Raises:
      InputError: the file is no XML, or no report.
    """
    try:
        root = ET.parse(file).getroot() if content is None else ET.fromstring(content)
    except (OSError, ET.ParseError) as error:
        raise InputError(f"{file}: cannot be read as XML ({error})\nmend or remove the file") from error
    found = {(part.get("Label") or "").lower(): "".join(part.itertext()).strip() for part in root.iter("AbstractText")}
    uid = root.find("uId")
    if uid is None or not uid.get("id") or not found.keys() & set(SECTIONS):
        raise InputError(f"{file}: is no radiology report\n{_WHERE}")
    terms = dict.fromkeys((term.text or "").split("/")[0].strip() for term in root.iter("major"))
    return Report(str(uid.get("id")), {name: found.get(name, "") for name in SECTIONS}, tuple(term for term in terms if term))
