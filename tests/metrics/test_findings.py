"""Stated and negated findings against sentences read by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.metrics.findings import TERMS, find_findings, findings

SENTENCES = [
    ("No pleural effusion or pneumothorax.", {"effusion": "negated", "pneumothorax": "negated"}),
    ("There is no effusion but atelectasis at the left base.", {"atelectasis": "stated", "effusion": "negated"}),
    ("Pneumothorax is not seen.", {"pneumothorax": "negated"}),
    ("Effusion has resolved; small nodule.", {"effusion": "negated", "nodule or mass": "stated"}),
    ("No change in the left effusion.", {"effusion": "stated"}),
    ("Pneumonia cannot be excluded.", {"pneumonia": "stated"}),
    ("Pneumonia has been ruled out.", {"pneumonia": "negated"}),
    ("1. No acute disease. 2. Old rib fracture.", {"fracture": "stated"}),
    ("Negative for XXXX consolidation. Scarring.", {"consolidation": "negated", "fibrosis": "stated"}),
    ("Edema, without opacity", {"edema": "stated", "opacity": "negated"}),
    ("The heart is mildly enlarged.", {"cardiomegaly": "stated"}),
    ("Lungs are free of focal infiltrates, however there is edema.", {"edema": "stated", "infiltrate": "negated"}),
    ("No effusion. Large effusion on the right.", {"effusion": "stated"}),  # stated once is stated
    ("NO EVIDENCE\nOF PNEUMONIA", {"pneumonia": "negated"}),
    ("Notable edema.", {"edema": "stated"}),  # "not" is a word
    ("The cat has a massive amassed hernial sack.", {}),  # so are terms
    ("", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), SENTENCES)
def test_sentences_read_by_hand(text, wanted):
    assert findings(text) == wanted


def test_mentions_are_placed():
    text = "No effusion. A small effusion?"
    found = find_findings(text)
    assert [(f.status, text[f.begin : f.end], f.begin) for f in found] == [
        ("negated", "effusion", 3),
        ("stated", "effusion", 21),
    ]
    own = find_findings("denies Chest  pain", {"chest pain": r"chest\s+pain"})
    assert [(f.term, f.status) for f in own] == [("chest pain", "negated")]


@given(st.text(max_size=50), st.sampled_from(sorted(TERMS)))
def test_a_negated_sentence_says_nothing_of_the_next(text, term):
    word = {"nodule or mass": "nodule"}.get(term, term)
    assert findings(f"No {word}.")[term] == "negated"
    assert findings(f"No finding.\n\nThere is {word}.")[term] == "stated"
    assert all(f.begin < f.end <= len(text) for f in find_findings(text))
