"""Findings that a report states and findings that it negates, by rules.

NegEx (Chapman et al., Journal of Biomedical Informatics 34(5), 2001): a cue in front of a term ("no evidence of") or behind it
("is ruled out") negates it, unless a word ends the cue's scope ("but"), or the cue only looks like one ("no change"). The scope
here is a cue's sentence up to such a word, as in the authors' later versions; the first had five words. Lists are of medjax.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Status = Literal["stated", "negated"]
# In front of what they negate, behind it, look like a cue, and end a scope.
BEFORE = (
    "no evidence of", "no sign of", "no signs of", "no evidence for", "no definite", "no findings of", "no indication of",
    "no suspicion of", "without evidence of", "without", "no", "not", "denies", "denied", "denying", "negative for", "free of",
    "absence of", "absent", "rule out", "ruled out for", "rules out", "fails to reveal", "failed to reveal", "clear of",
    "never", "neither", "nor", "cannot see", "lack of", "lacks", "resolution of", "unremarkable for",
)  # fmt: skip
BEHIND = (
    "is ruled out", "are ruled out", "was ruled out", "were ruled out", "has been ruled out", "have been ruled out",
    "is not seen", "are not seen", "is not present", "are not present", "is not identified", "are not identified",
    "not seen", "not identified", "not present", "not demonstrated", "not evident", "is absent", "are absent", "unlikely",
    "is excluded", "are excluded", "is negative", "are negative", "has resolved", "have resolved", "resolved", "is denied",
)  # fmt: skip
PSEUDO = (
    "no change", "no interval change", "no significant change", "no significant interval change", "no increase",
    "no interval increase", "no further", "not only", "not certain", "not certain whether", "not certain if",
    "no longer excluded", "not necessarily", "without change", "without difficulty", "not rule out", "not ruled out",
    "cannot rule out", "cannot be ruled out", "not excluded", "cannot exclude", "cannot be excluded", "not exclude",
)  # fmt: skip
ENDS = (
    "but", "however", "although", "though", "except", "except for", "apart from", "aside from", "other than", "yet",
    "nevertheless", "still", "which", "secondary to", "due to", "because of", "since", "there is", "there are", "with",
    "cause of", "causes of", "source of", "reason for", "demonstrates", "shows", "reveals",
)  # fmt: skip
# What reports of the chest speak of most, as patterns of words.
TERMS: Mapping[str, str] = {
    "atelectasis": r"atelecta(?:sis|ses|tic)|collaps(?:e|ed) (?:of )?(?:the )?(?:lung|lobe)",
    "cardiomegaly": r"cardiomegaly|(?:enlarged|large) (?:heart|cardiac|cardio\w+)(?: silhouette)?|"
    r"(?:heart|cardiac silhouette|heart size) (?:is |are |remains )?(?:\w+ )?enlarged|cardiac enlargement",
    "consolidation": r"consolidat(?:ion|ions|ive)",
    "edema": r"o?edema|vascular congestion|fluid overload",
    "effusion": r"effusions?|pleural fluid|hydrothorax",
    "emphysema": r"emphysema(?:tous)?|hyperinflat(?:ed|ion)|hyperexpan(?:ded|sion)|copd",
    "fibrosis": r"fibro(?:sis|tic)|scar(?:s|ring|red)?",
    "fracture": r"fractur(?:e|es|ed)",
    "granuloma": r"granulom(?:a|as|ata|atous)",
    "hernia": r"hernias?",
    "infiltrate": r"infiltrat(?:e|es|ion|ions)",
    "nodule or mass": r"nodul(?:e|es|ar)|mass(?:es)?|lesions?",
    "opacity": r"opacit(?:y|ies)|opacifications?|airspace disease",
    "pneumonia": r"pneumonias?|infectious process",
    "pneumothorax": r"pneumothora(?:x|ces)",
    "tuberculosis": r"tuberculosis|\btb\b",
}
_SENTENCE = re.compile(r"(?:[.!?;](?=\s|$)|\n\s*\n|:(?=\s))")
_NUMBER = re.compile(r"(?<=\s)\d+(?=\.\s)")  # of a list, whose point ends no sentence


class Finding(NamedTuple):
    """A finding in a text.

    Attributes:
      term: what is found, out of the terms.
      status: "stated" or "negated".
      begin, end: where its words stand.
    """

    term: str
    status: Status
    begin: int
    end: int


def _words(phrases: Iterable[str]) -> re.Pattern[str]:
    longest = sorted(phrases, key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(re.escape(p).replace(r"\ ", r"\s+") for p in longest) + r")\b", re.IGNORECASE)


_BEFORE, _BEHIND, _PSEUDO, _ENDS = map(_words, (BEFORE, BEHIND, PSEUDO, ENDS))


def find_findings(text: str, terms: Mapping[str, str] = TERMS) -> list[Finding]:
    """Every mention of a term with whether it is negated, in the order of the text.

    Args:
      text: a report, or part of one.
      terms: {term: pattern of its words}, whole words, upper and lower case alike.
    """
    patterns = {term: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for term, pattern in terms.items()}
    found = []
    for begin, end in _sentences(text):
        sentence = text[begin:end]
        negated = _scopes(sentence)
        for term, pattern in patterns.items():
            for m in pattern.finditer(sentence):
                status: Status = "negated" if any(a <= m.start() and m.end() <= b for a, b in negated) else "stated"
                found.append(Finding(term, status, begin + m.start(), begin + m.end()))
    return sorted(found, key=lambda f: (f.begin, f.end, f.term))


def findings(text: str, terms: Mapping[str, str] = TERMS) -> dict[str, Status]:
    """{term: status} of a whole text, in the order of the terms: a term that is stated anywhere is stated."""
    status: dict[str, Status] = {}
    for found in find_findings(text, terms):
        if status.get(found.term) != "stated":
            status[found.term] = found.status
    return {term: status[term] for term in terms if term in status}


def _sentences(text: str) -> list[tuple[int, int]]:
    numbers = {m.end() for m in _NUMBER.finditer(text)}
    found, begin = [], 0
    for m in _SENTENCE.finditer(text):
        if m.start() in numbers:
            continue
        found.append((begin, m.end()))
        begin = m.end()
    return [*found, (begin, len(text))]


def _scopes(sentence: str) -> list[tuple[int, int]]:
    """(begin, end) of what the cues of a sentence negate."""
    false = [m.span() for m in _PSEUDO.finditer(sentence)]
    ends = [m.span() for m in _ENDS.finditer(sentence)]

    def real(m: re.Match[str]) -> bool:
        return not any(a < m.end() and m.start() < b for a, b in false)

    found = []
    behind = [m for m in _BEHIND.finditer(sentence) if real(m)]
    taken = [m.span() for m in behind]
    for m in behind:
        found.append((max((b for _, b in ends if b <= m.start()), default=0), m.start()))
    for m in _BEFORE.finditer(sentence):
        if real(m) and not any(a < m.end() and m.start() < b for a, b in taken):
            found.append((m.end(), min((a for a, _ in ends if a >= m.end()), default=len(sentence))))
    return found
