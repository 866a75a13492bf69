"""Plain texts: PATH.txt, or a folder of *.txt, without any labels: for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medjax.data.layouts import Layout
from medjax.data.texts import Document, TextSource, read_text
from medjax.errors import InputError


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read texts in UTF-8, a file each; a case's id is its path in the folder, without the ending.

    Raises:
      InputError: there is none, or one is not UTF-8.
    """
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.rglob("*.txt"))
    if not files:
        raise InputError(f"{root}: holds no .txt file\ngive a text, or a folder of them")
    base = root.parent if root.is_file() else root
    documents = [Document(f.relative_to(base).with_suffix("").as_posix(), read_text(f), path=str(f)) for f in files]
    about = f"{len(files):,} texts without labels"
    return Layout({"all": TextSource(documents)}, tuple(classes), "single", about, texts=("text",))


def sniff(path: str | Path) -> str:
    """Never: a folder of texts may be anything, and there is nothing to learn from."""
    return ""
