"""Headed sections of notes and reports by the stated rule."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.data import sections

REPORT = """CHEST PA AND LATERAL
Reason for Exam (portable): Fever, XXXX.
COMPARISON:
FINDINGS: Heart size: normal.
No effusion:
none seen.
1. IMPRESSION:
No acute disease.
"""


def test_a_report_in_sections():
    assert sections.fields(REPORT) == {
        "indication": "Fever, XXXX.",
        "findings": "Heart size: normal.\nNo effusion:\nnone seen.",
        "impression": "No acute disease.",
    }


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Chief Complaint: pain", "chief complaint"),
        ("HPI: pain", "history of present illness"),
        ("HISTORY OF PRESENT ILLNESS", "history of present illness"),
        ("  2) Review of Systems :", "review of systems"),
        ("- A/P: rest", "assessment and plan"),
        ("Conclusion: none", "impression"),
        ("the patient says: pain", None),  # no capitals
        ("He came at 12:30 by car", None),
        ("This is a long line of Words that goes On and On and On: no", None),
        ("CT", None),  # under four letters
        ("Seen by Dr. Smith: yes", None),  # a point
    ],
)
def test_what_is_a_heading(line, name):
    found = sections.find_sections(f"Before.\n{line}\nBehind.")
    assert found[0].name == ""
    assert [of.name for of in found[1:]] == ([] if name is None else [name])


def test_places_are_those_of_the_text():
    for name, begin, end in sections.find_sections(REPORT):
        said = REPORT[begin:end]
        assert said == said.strip()
        assert said in sections.fields(REPORT)[name]
    assert [REPORT[a:b] for a, b in sections.chosen(REPORT, ["Conclusion"])] == ["No acute disease."]
    assert sections.chosen(REPORT, ["plan"]) == []
    assert sections.fields("") == sections.fields(" \n") == {}
    assert sections.fields("FINDINGS: a\nFindings: b") == {"findings": "a\nb"}


@given(st.text(alphabet="aA: \n.", max_size=40))
def test_sections_do_not_overlap(text):
    found = sections.find_sections(text)
    assert all(a.end <= b.begin for a, b in itertools.pairwise(found))
    assert all(text[of.begin : of.end].strip() for of in found)
