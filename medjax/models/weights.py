"""Pretrained weights: state dicts of torchvision, timm and TorchXRayVision onto medjax's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases
from medjax.console import say
from medjax.core import State
from medjax.errors import InputError
from medjax.models.torch_files import read_tensors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CHECKPOINTS = ("state_dict", "model_state_dict", "model")  # keys of a training checkpoint, in the order of preference
_WRAPPERS = ("module", "model", "encoder", "backbone", "net")  # modules that a network was wrapped in
_OPERATING_POINTS = "op_threshs"  # of TorchXRayVision: not a weight
_SHOWN = 3

StateDict = dict[str, np.ndarray]


class Loaded(NamedTuple):
    """What became of a state dict.

    Attributes:
      used: names of the tensors that were loaded.
      ignored: names of the tensors that are known and not needed: counters, operating points, a head that does not fit.
      notes: what a user should know, a line each: wrappers taken off, a head left as initialised, adapted input channels.
    """

    used: tuple[str, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read_state_dict(path: str | Path) -> StateDict:
    """Tensors by their names in PyTorch, from `.safetensors` or a `.pth` of tensors (see `torch_files`); no code is run.

    A training checkpoint ({"state_dict": ...}, "model_state_dict", "model") gives the state dict in it.

    Returns:
      {name: array}; floats of 16 bits as float32, all else as stored.

    Raises:
      InputError: the file cannot be read, or holds no tensors by name.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[StateDict, tuple[str, ...]]:
    tree, note = read_tensors(path)
    notes = [note] if note else []
    for key in _CHECKPOINTS:
        if isinstance(tree, dict) and isinstance(tree.get(key), dict) and any(_leaves(tree[key])):
            others = sum(1 for name, _ in _leaves(tree) if not name.startswith(f"{key}."))
            notes.append(f"weights taken from {key!r}" + (f"; {others} tensors beside it left" if others else ""))
            tree = tree[key]
            break
    found = dict(_leaves(tree))
    if not found:
        raise InputError(f"{path}: holds no tensors by name\ngive a state dict: torch.save(model.state_dict(), PATH)")
    return found, tuple(notes)


def _leaves(tree: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) below nested dicts; a network's depth is a dozen at most."""
    for key, value in tree.items() if isinstance(tree, dict) and depth < 16 else ():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value
        else:
            yield from _leaves(value, f"{prefix}{key}.", depth + 1)


def load_weights(
    variables: Mapping[str, Any],
    state_dict: Mapping[str, np.ndarray],
    from_torch: Callable[[str], str | None],
    *,
    at: Sequence[str] = (),
) -> tuple[dict[str, Any], Loaded]:
    """Variables of a network with a PyTorch state dict's weights and running statistics in them.

    Kernels are transposed. An input of other channels than the weights' keeps the response to equal channels, as timm does:
    for one channel the kernels are summed, for more they repeat in a cycle, scaled by (channels of the weights) / (channels).
    A head of another number of classes, or none on either side, leaves ours as it is. All else must fit.

    Args:
      variables: {"params": tree, "batch_stats": tree, ...}, as initialised; the tree at `at` is the network.
      state_dict: {name in PyTorch: array}; prefixes that all names share ("module.", "model.", "encoder.") are taken off.
      from_torch: name -> path in our network joined by dots, None where there is none; such as `ResNet.from_torch`.
      at: where in each tree the network lies, such as ("encoder",).

    Returns:
      (variables, report): new trees of arrays as NumPy holds them, with the dtypes of the old ones.

    Raises:
      InputError: tensors are missing, left over or of another shape: weights of another architecture. The first are named.
    """
    state_dict, notes = _unwrapped(state_dict)
    leaves = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))}
    ours = _network_leaves(leaves, tuple(at))
    heads = {path for path in ours if path[1] == "head"}
    made: dict[tuple[str, ...], tuple[str, np.ndarray]] = {}
    ignored, left, differ = [], [], []
    for name, tensor in state_dict.items():
        path = _placed(name, from_torch, ours)
        if path == ():
            ignored.append(name)
        elif path is None:
            left.append(name)
        elif path not in ours:
            (ignored if path[1].startswith("head") else left).append(name)
        else:
            wanted = tuple(ours[path].shape)
            value, change = _fitted(tensor, path, wanted)
            if value is not None and path not in made:
                made[path] = name, value
                notes += (change,) if change else ()
            elif path in heads:
                ignored.append(name)
            else:
                differ.append(f"{name} {tensor.shape} for {'.'.join(path[1:])} {wanted}")
    if heads - set(made):  # a part of a head alone is of no use
        ignored += [made.pop(path)[0] for path in heads & set(made)]
        notes += (_head_note(ours, state_dict, from_torch),)
    missing = [".".join(path[1:]) for path in ours if path not in made and path not in heads]
    missing = [name for name in missing if not any(f" for {name} " in d for d in differ)]
    if missing or left or differ:
        told = [("missing", missing), ("left over", left), ("of another shape", differ)]
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)})"
            for kind, names in told
            if names
        ]
        raise InputError(
            f"weights of another architecture: {'; '.join(parts)}\ngive the weights of this network, or build theirs"
        )
    whole = {(path[0], *at, *path[1:]): value for path, (_, value) in made.items()}

    def fill(path: Any, leaf: Any) -> Any:
        value = whole.get(_path(path))
        return leaf if value is None else np.array(value, leaf.dtype)

    filled = jax.tree_util.tree_map_with_path(fill, dict(variables))
    return filled, Loaded(tuple(name for name, _ in made.values()), tuple(ignored), notes)


def _path(path: Any) -> tuple[str, ...]:
    return tuple(str(part.key) for part in path)


def _network_leaves(leaves: Mapping[tuple[str, ...], Any], at: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """{(collection, path in the network): leaf} of what lies at `at`."""
    found = {(p[0], *p[1 + len(at) :]): v for p, v in leaves.items() if p[1 : 1 + len(at)] == at and len(p) > 1 + len(at)}
    if not found:
        known = sorted({path[1] for path in leaves if len(path) > 1})
        raise InputError(f"there is no network at {'/'.join(at)!r}\nthere are {', '.join(known)}")
    return found


def _unwrapped(state_dict: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Without the prefixes that all names share."""
    prefix, names = "", [name for name in state_dict if name != _OPERATING_POINTS]
    while names and (first := names[0].partition(".")[0]) in _WRAPPERS and all(n.startswith(f"{first}.") for n in names):
        prefix, names = f"{prefix}{first}.", [name.partition(".")[2] for name in names]
    whole = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    return whole, (f"prefix {prefix!r} taken off the names",) if prefix else ()


def _placed(name: str, from_torch: Callable[[str], str | None], ours: Mapping[tuple[str, ...], Any]) -> tuple[str, ...] | None:
    """(collection, path) of a tensor, () where it is not needed, None where it has no place."""
    if name.endswith(".num_batches_tracked") or name == _OPERATING_POINTS:
        return ()
    known = from_torch(name)
    if known is None:
        return None
    *module, leaf = known.split(".")
    if leaf in ("running_mean", "running_var"):
        return ("batch_stats", *module, leaf.removeprefix("running_"))
    if leaf == "weight":
        leaf = "scale" if ("params", *module, "scale") in ours else "kernel"
    return ("params", *module, leaf)


def _fitted(tensor: np.ndarray, path: tuple[str, ...], wanted: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """The tensor in our layout and shape, or None; and what was changed in it."""
    leaf = path[-1]
    if leaf == "kernel":  # [O, I, *K] -> [*K, I, O]
        tensor = np.moveaxis(tensor, (0, 1), (-1, -2)) if tensor.ndim > 1 else tensor
    elif leaf == "layer_scale":  # [C, 1, 1]
        tensor = tensor.reshape(-1)
    if tensor.shape == wanted:
        return tensor, ""
    stem = path[1] == "stem_conv" and leaf == "kernel" and len(wanted) == tensor.ndim
    if not stem or (*tensor.shape[:-2], tensor.shape[-1]) != (*wanted[:-2], wanted[-1]):
        return None, ""
    theirs, channels = tensor.shape[-2], wanted[-2]
    if channels == 1:
        return tensor.sum(-2, keepdims=True), f"kernels of {theirs} input channels summed into one"
    cycle = np.take(tensor, np.arange(channels) % theirs, -2)
    return cycle * (theirs / channels), f"kernels of {theirs} input channels repeated for {channels}, scaled to the same sum"


def _head_note(
    ours: Mapping[tuple[str, ...], Any], state_dict: Mapping[str, np.ndarray], from_torch: Callable[[str], str | None]
) -> str:
    classes = ours["params", "head", "kernel"].shape[-1]
    theirs = [len(v) for n, v in state_dict.items() if _placed(n, from_torch, ours) == ("params", "head", "bias")]
    why = f"the weights' has {theirs[0]} classes" if theirs else "the weights have none"
    return f"the head of {classes} classes starts from random values: {why}"


def pretrained(
    path: str | Path, model: Any, *, at: Sequence[str] = (), tell: Callable[[str], None] = say
) -> Callable[..., State]:
    """`start` of a Job: training begins from a file of weights.

    The file is read when training starts and not before, since a finished run is evaluated and resumed without it.

    Args:
      path: `.safetensors` or `.pth`.
      model: the network, or the part of it at `at`: a module with `from_torch`.
      at: where in the parameters it lies.
      tell: takes each line of what a user should know.

    Returns:
      start(state, cases) -> state with `params` and `extra["batch_stats"]` replaced, `opt` as initialised. Raises InputError as
      `read_state_dict` and `load_weights` do, the file named.
    """

    def start(state: State, cases: Cases | None = None) -> State:
        if not hasattr(model, "from_torch"):
            raise InputError(
                f"{path}: {type(model).__name__} takes no pretrained weights\nchoose a ResNet, DenseNet or ConvNeXt"
            )
        tensors, notes = _read(path)
        try:
            filled, report = load_weights({"params": state.params, **state.extra}, tensors, model.from_torch, at=at)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        tell(f"weights: {len(report.used)} tensors from {Path(path).name}")
        for note in (*notes, *report.notes):
            tell(f"weights: {note}")
        return state.replace(params=filled.pop("params"), extra=filled)

    return start


def normalise_imagenet(image: jax.Array, *, channels: int = 3) -> jax.Array:
    """(image - mean) / std by channel, as torchvision's and timm's weights expect.

    Args:
      image: [n, *S, C] float in 0..1, such as `to_unit` gives; a single channel is repeated.
      channels: of the network's input, at one channel with the mean of the three constants, at others with them in a cycle.

    Returns:
      [n, *S, channels] float32.

    Raises:
      ValueError: the image has neither one channel nor `channels`.
    """
    if image.shape[-1] not in (1, channels):
        raise ValueError(f"normalise_imagenet: {image.shape[-1]} channels are neither 1 nor {channels}")
    order = np.arange(channels) % 3
    mean, std = (np.array(v, np.float32)[order] if channels > 1 else np.mean(v) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image.astype(jnp.float32) - mean) / std).astype(jnp.float32)


def normalise_xrv(image: jax.Array) -> jax.Array:
    """Grey in [-1024, 1024], as TorchXRayVision's weights expect; colours are averaged.

    Args:
      image: [n, *S, C] float in 0..1, such as `to_unit` gives.

    Returns:
      [n, *S, 1] float32.
    """
    return (2 * image.astype(jnp.float32).mean(-1, keepdims=True) - 1) * 1024
