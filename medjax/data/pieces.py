"""Pieces of words, from which any text can be written: byte-pair encoding, learned from training texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medjax.data.tokenize import PLACEHOLDER
from medjax.errors import InputError

PADDING, BEGIN, END = 0, 1, 2
_SPECIAL = ("<padding>", "<begin>", "<end>")
LEAST_PIECES = 256 + len(_SPECIAL)  # every byte
TAKEN_OUT = "XXXX"  # how every de-identified name, date or place is read and written


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise InputError('pieces of words need tokenizers\ninstall it: pip install "medjax[text]"') from error
    return tokenizers


def learn_pieces(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """The merges of byte-pair encoding (Sennrich et al., ACL 2016) over bytes (Radford et al., 2019), each "LEFT RIGHT", in
    their order.

    Args:
      texts: of the training documents.
      size: pieces there are to be at most, the 256 bytes and three signs among them.

    Raises:
      InputError: tokenizers is not installed.
    """
    library = _library()
    made = _tokenizer(library, (), ())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL), initial_alphabet=_bytes(library), show_progress=False
    )
    made.train_from_iterator((_readable(text) for text in texts), trainer)
    merges = json.loads(made.to_str())["model"]["merges"]
    return tuple(of if isinstance(of, str) else " ".join(of) for of in merges)


def _bytes(library: Any) -> list[str]:
    return sorted(library.pre_tokenizers.ByteLevel.alphabet())


def _readable(text: str) -> str:
    return PLACEHOLDER.sub(TAKEN_OUT, text)


def _tokenizer(library: Any, pieces: Sequence[str], merges: Sequence[str]) -> Any:
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    pairs: list[Any] = [tuple(merge.split(" ")) for merge in merges]
    made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    return made


class Pieces:
    """Texts as numbers of pieces and back; every Unicode text comes back as it was, but for what de-identification took out.

    Args:
      merges: from `learn_pieces`.

    Raises:
      InputError: tokenizers is not installed.
    """

    def __init__(self, merges: Sequence[str]):
        library = _library()
        names = [*_SPECIAL, *_bytes(library)]
        # Different merges can make the same piece, which has one number.
        names += [piece for piece in dict.fromkeys(merge.replace(" ", "") for merge in merges) if piece not in set(names)]
        self.merges = tuple(merges)  # plain, so that a cache of prepared texts can be keyed by them
        self.size = len(names)
        self._made = _tokenizer(library, names, merges)

    def encode(self, text: str) -> np.ndarray:
        """int32 [k], none of them PADDING, BEGIN or END."""
        return np.array(self._made.encode(_readable(text), add_special_tokens=False).ids, np.int32)

    def cut(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The pieces that hold more than blanks: places int32 [k, 2] in characters of the text as it is, blanks in front left
        out, and numbers int32 [k]. Pieces of one character share its place.
        """
        begins, ends, at = [], [], 0
        for m in PLACEHOLDER.finditer(text):
            begins += [*range(at, m.start()), *[m.start()] * len(TAKEN_OUT)]
            ends += [*range(at + 1, m.start() + 1), *[m.end()] * len(TAKEN_OUT)]
            at = m.end()
        begins += range(at, len(text))
        ends += range(at + 1, len(text) + 1)
        found = self._made.encode(_readable(text), add_special_tokens=False)
        places, numbers = [], []
        for (a, b), number in zip(found.offsets, found.ids, strict=True):
            begin, end = begins[a], ends[b - 1]
            begin += len(text[begin:end]) - len(text[begin:end].lstrip())
            if begin < end:
                places.append((begin, end))
                numbers.append(number)
        return np.array(places, np.int32).reshape(-1, 2), np.array(numbers, np.int32)

    def decode(self, numbers: Sequence[int] | np.ndarray) -> str:
        """The text of pieces; PADDING, BEGIN and END say nothing, and bytes that are no UTF-8 become U+FFFD."""
        kept = [int(number) for number in numbers if number > END]
        return self._made.decode(kept, skip_special_tokens=False)
