"""The dataset.json of the Medical Segmentation Decathlon and of nnU-Net: what the channels are, and what the labels mean."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.data.volumes import IGNORE
from medjax.errors import InputError

NAME = "dataset.json"
BACKGROUND = "background"
_IGNORED = "ignore"  # nnU-Net's name for what is not annotated


def read_json(file: Path, kind: type = dict) -> Any:
    """A JSON file whose whole is of a kind.

    Raises:
      InputError: it cannot be read, is no JSON, or is something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file\ngive --data.path the folder that holds it") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})\ncopy it again") from error
    except ValueError as error:
        raise InputError(f"{file}: is no JSON ({error})\ncopy it again") from error
    if not isinstance(found, kind):
        raise InputError(f"{file}: is no {'object' if kind is dict else 'list'}\ncopy it again")
    return found


def read_channels(file: Path, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels, in order, by `channel_names` (nnU-Net) or `modality` (the Decathlon): {"0": "CT"}.

    Raises:
      InputError: neither is there, or it does not number the channels from 0.
    """
    named = about.get("channel_names", about.get("modality"))
    if not isinstance(named, dict) or not named:
        raise InputError(f'{file}: names no channels\nadd "channel_names": {{"0": "CT"}}, or what they are')
    if sorted(named) != sorted(str(k) for k in range(len(named))):
        raise InputError(f"{file}: numbers its channels {', '.join(named)}\nnumber them from 0")
    return tuple(str(named[str(k)]) for k in range(len(named)))


def read_labels(file: Path, about: Mapping[str, Any], wanted: Sequence[str]) -> tuple[tuple[str, ...], dict[int, int]]:
    """What the values of masks mean, by `labels`: {"0": "background", "1": "liver"} or {"background": 0, "liver": 1}.

    Args:
      file: for messages.
      about: its content.
      wanted: names of classes, "background" first or not, in the order that their places are to have; those that are not named
        are background. All of them, in their own order, by default.

    Returns:
      (classes, "background" or what 0 is called first; {value: place in `classes`, or IGNORE}).

    Raises:
      InputError: no labels, values that do not run from 0, two of one name, regions, a class that is not there.
    """
    labels = about.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{file}: names no labels\nadd "labels": {{"background": 0, "liver": 1}}, or what they are')
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise InputError(
            f"{file}: {regions[0]!r} is a region of several labels, and these are not supported\n"
            "give each label a class of its own: it is regions that overlap, not voxels"
        )
    by_value = all(name.isdecimal() for name in labels)
    pairs = [(name, value) if by_value else (value, name) for name, value in labels.items()]
    try:
        names = {int(value): str(name) for value, name in sorted(pairs, key=lambda pair: int(pair[0]))}
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: its labels are no whole numbers\ngive each class one, from 0") from error
    ignored = max(names)
    values = {ignored: IGNORE} if names[ignored].lower() == _IGNORED and ignored else {}
    names = {value: name for value, name in names.items() if value not in values}
    if (
        len(names) + len(values) < len(labels)
        or list(names) != list(range(len(names)))
        or len(set(names.values())) < len(names)
    ):
        raise InputError(
            f"{file}: its labels are {json.dumps(labels)[:200]}\n"
            "number the classes 0 (background), 1, 2, ... without a gap or a name twice, and in the masks alike"
        )
    if len(names) < 2:
        raise InputError(f"{file}: names no class besides {names[0]!r}\nadd one")
    own = tuple(names.values())
    chosen = _chosen(file, own, wanted)
    return (own[0], *chosen), {k: 1 + chosen.index(name) if name in chosen else 0 for k, name in names.items()} | values


def _chosen(file: Path, own: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The classes of the foreground that are wanted."""
    first = bool(wanted) and wanted[0].lower() in (BACKGROUND, own[0].lower())
    chosen = tuple(wanted[1:] if first else wanted) or tuple(own[1:])
    if strange := [name for name in chosen if name not in own[1:]]:
        near = difflib.get_close_matches(strange[0], own[1:], n=1, cutoff=0.0)[0]
        raise InputError(
            f"{file}: names no label {strange[0]!r}; the nearest is {near!r}\nthere are {', '.join(own[1:])}", usage=True
        )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--data.classes {' '.join(wanted)}: names a class twice", usage=True)
    return chosen
