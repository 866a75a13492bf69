"""Headed sections of notes and reports, told by a stated rule.

A line begins a section where, after blanks, numbers and bullets, it has

  a heading of one to `LONGEST` words and a colon, each word beginning with a capital letter but for little ones ("Reason for
  Exam:"); what follows the colon belongs to the section; or
  nothing but such a heading of capital letters alone, four at least ("HOSPITAL COURSE").

Headings are called in lower case, numbers and what stands in brackets left out, by the names of `SAME` where they have one.
What stands in front of the first heading is the section "". Places count characters of the text as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 6  # words of a heading
SAME = {
    "hpi": "history of present illness",
    "history of the present illness": "history of present illness",
    "cc": "chief complaint",
    "reason for visit": "chief complaint",
    "pmh": "past medical history",
    "past history": "past medical history",
    "psh": "past surgical history",
    "ros": "review of systems",
    "pe": "physical examination",
    "physical exam": "physical examination",
    "exam": "physical examination",
    "meds": "medications",
    "current medications": "medications",
    "clinical indication": "indication",
    "indications": "indication",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "clinical history": "indication",
    "comparisons": "comparison",
    "finding": "findings",
    "impressions": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "opinion": "impression",
    "a/p": "assessment and plan",
    "assessment/plan": "assessment and plan",
    "assessment & plan": "assessment and plan",
}
_LITTLE = r"(?:of|and|the|for|on|in|to|with|or|at|by|per|a|an)"
_WORD = r"[A-Z][\w'&/-]*"
_TITLE = rf"{_WORD}(?:[ \t]+(?:{_LITTLE}|&|{_WORD}|\([^()\n]{{1,30}}\))){{0,{LONGEST - 1}}}"
_CAPITALS = rf"(?=[^a-z\n]*$)(?=(?:[^A-Z\n]*[A-Z]){{4}}){_WORD}(?:[ \t]+(?:&|{_WORD})){{0,{LONGEST - 1}}}"
_FRONT = r"^[ \t]*(?:(?:\d{1,2}[.)]|[-*\u2022])[ \t]+)?"
_HEADING = re.compile(rf"{_FRONT}(?:(?P<title>{_TITLE})[ \t]*:|(?P<capitals>{_CAPITALS})[ \t]*$)", re.MULTILINE)


class Section(NamedTuple):
    """A part of a text.

    Attributes:
      name: what its heading is called, "" in front of the first.
      begin, end: of what it says, its heading and the blanks around left out.
    """

    name: str
    begin: int
    end: int


def find_sections(text: str) -> list[Section]:
    """The sections of a text in their order, those without any content left out; none for a text of blanks."""
    headings = [(m.start(), m.end(), called(m["title"] or m["capitals"])) for m in _HEADING.finditer(text)]
    begins = [(0, "")] + [(end, name) for _, end, name in headings]
    ends = [start for start, *_ in headings] + [len(text)]
    found = []
    for (begin, name), end in zip(begins, ends, strict=True):
        inside = text[begin:end]
        begin += len(inside) - len(inside.lstrip())
        end = begin + len(inside.strip())
        if begin < end:
            found.append(Section(name, begin, end))
    return found


def called(heading: str) -> str:
    """The name of a heading: "REASON FOR EXAM (portable)" -> "indication"."""
    plain = " ".join(re.sub(r"\([^()]*\)", " ", heading).lower().split())
    return SAME.get(plain, plain)


def fields(text: str) -> dict[str, str]:
    """{name: what its sections say}, in their order; sections of one name are joined by a line end."""
    found: dict[str, str] = {}
    for name, begin, end in find_sections(text):
        found[name] = f"{found[name]}\n{text[begin:end]}" if name in found else text[begin:end]
    return found


def chosen(text: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """(begin, end) of the sections of these names, in the order of the text."""
    wanted = {called(name) for name in names}
    return [(begin, end) for name, begin, end in find_sections(text) if name in wanted]
