"""The plan of a segmentation, from the facts of its data and a budget: spacing, patch, network and batch.

After nnU-Net (Isensee et al., Nature Methods 2021, online methods, "Inferred parameters"): the facts of a data set decide, by
rules, what a person would otherwise try out. Pure functions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.flops import human
from medjax.tasks.fingerprint import Fingerprint
from medjax.tasks.patch_search import Budget, Rules, given, largest_batch, search
from medjax.tasks.unet_cost import GIB, Net
from medjax.tasks.unet_cost import flops as net_flops
from medjax.tasks.unet_cost import memory as net_memory

ANISOTROPIC = 3  # from this ratio of spacings on an axis is treated by itself
FEWEST_SLICES = 5  # a median of fewer is planned in 2-D: not one more than the smallest map
WIDEST = {2: 512, 3: 320}
SHARE = 0.05  # of all voxels that one batch may hold
FULL = (1, 3, 4, 6, 6, 6)  # residual blocks of each stage, the last repeated (Isensee et al., MICCAI 2024)
LIGHT = (1,)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A planned segmentation: numbers, strings and tuples of them.

    Attributes:
      dims: 2 (slices, or pictures) or 3.
      spacing: mm to resample to, (D, H, W); 0 keeps an axis as it is (the slices of a plan in 2-D); () keeps all: pixels.
      shape: median (D, H, W) of the cases at that spacing.
      patch: (D, H, W); D = 1 in 2-D.
      batch_size: examples of a step.
      features: width of each stage.
      strides: of each stage, `dims` numbers each; the first are 1.
      kernels: sides of each stage's convolutions, likewise.
      blocks: residual blocks of each stage.
      normalise: of each channel: "ct" (clip to percentiles of the foreground, then its mean and deviation), "zscore" (mean and
        deviation of each case) or "range" (0..1).
      anisotropic: one axis is sampled 3 times as coarsely as the others, and has the fewest voxels.
      channels: of the input.
      classes: background included.
      max_features: the width that stages stop at.
      bytes_per_value: of the activations.
      memory_gib: estimate of a training step's memory.
      notes: what was decided against the rule or for want of knowledge, in words.
    """

    dims: int
    spacing: tuple[float, ...]
    shape: tuple[int, int, int]
    patch: tuple[int, int, int]
    batch_size: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    normalise: tuple[str, ...]
    anisotropic: bool
    channels: int
    classes: int
    max_features: int
    bytes_per_value: int
    memory_gib: float
    notes: tuple[str, ...] = ()


def plan(
    fingerprint: Fingerprint,
    *,
    memory_gib: float,
    dims: int | None = None,
    base_features: int = 32,
    max_features: int | None = None,
    blocks: Sequence[int] = FULL,
    largest_patch: float | None = None,
    flops_per_step: float | None = None,
    bytes_per_value: int = 4,
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Plan a segmentation.

    3-D, unless the median case has fewer than 5 slices. The spacing is the median along each axis; where one axis is 3 times
    coarser than the next and has the fewest voxels, its 10th percentile. The patch begins as large as 256^3 voxels (2048^2
    pixels) and equally long in mm, is cut to the median shape, and then along the axis that covers most of the median shape,
    until a batch (of 2, of 12 in 2-D) is within the budgets. Where the patch would fall under 64^3 (256^2), first the batch
    shrinks, down to 2, then the width halves, down to 8; after that the patch goes on down to 16 a side. A batch fills what is
    left, up to 5 % of all voxels.

    Args:
      fingerprint: the training cases'.
      memory_gib: what a training step may take on one device (`medjax.tasks.unet_cost.memory`).
      dims: 2 or 3; None: by the rule.
      base_features: width of the first stage, doubled at each.
      max_features: where it stops; None: 320 in 3-D, 512 in 2-D.
      blocks: residual blocks of each stage, the last repeated: `FULL`, or `LIGHT` where time is short.
      largest_patch: voxels that a patch may have.
      flops_per_step: floating-point operations that a training step may take.
      bytes_per_value: 4, or 2 in bfloat16 on an accelerator.
      spacing: mm (D, H, W), in place of the rule; () resamples nothing.
      patch: sides (D, H, W), in place of the search.
      batch_size: in place of the search.

    Raises:
      InputError: a setting out of range, or a patch that the strides do not divide.
    """
    shapes = fingerprint.shapes
    if not memory_gib > 0:
        raise InputError(f"memory of {memory_gib} GiB\ngive what a training step may take, more than 0")
    if dims not in (None, 2, 3):
        raise InputError(f"{dims} dimensions\ngive 2, 3, or none to let the data decide")
    if base_features < 1 or not blocks or min(blocks) < 1:
        raise InputError(f"{base_features} features and {tuple(blocks)} blocks\ngive 1 of each at least")
    slices = float(np.median(shapes[:, 0]))
    notes: list[str] = []
    if dims is None:
        dims = 2 if slices < FEWEST_SLICES else 3
        if 1 < slices < FEWEST_SLICES:
            notes.append(f"in 2-D, slice by slice: the median case has {slices:g} slices")
    if spacing is None:
        target, said = _target_spacing(fingerprint, dims)
        notes += said
    else:
        target = _checked_spacing(spacing, dims)
    at_target = _resampled(fingerprint, target)
    median = tuple(max(1, round(float(m))) for m in np.median(at_target, axis=0))
    normalise, said = _normalisation(fingerprint)
    notes += said
    widest = WIDEST[dims] if max_features is None else max_features
    rules = Rules(_steps(target, dims), tuple(blocks), widest, len(fingerprint.channels), fingerprint.classes)
    budget = Budget(memory_gib * GIB, flops_per_step or math.inf, largest_patch or math.inf, bytes_per_value)
    share = SHARE * float(at_target.prod(1, dtype=np.float64).sum())  # voxels
    if patch is not None:
        net, batch = given(patch, rules, base_features), 2
    else:
        net, batch = search(rules, median[-dims:], budget, base_features, batch_size, share)
    if net.features[0] < base_features:
        notes.append(f"{net.features[0]} features in place of {base_features}: the budget is short")
    if batch_size is None:
        most = max(2, round(share / math.prod(net.patch)))
        batch = largest_batch(net, budget, max(2, min(batch, most)), most)
    elif batch_size < 1:
        raise InputError(f"a batch of {batch_size}\ngive 1 at least")
    else:
        batch = batch_size
    if not budget.holds(net, batch):
        what = "the smallest patch and network" if patch is None else "the patch asked for"
        notes.append(f"beyond the budget: {what}, {batch} a batch")
    return Plan(
        dims=dims,
        spacing=target,
        shape=median,  # type: ignore[arg-type]
        patch=(1,) * (3 - dims) + net.patch,  # type: ignore[arg-type]
        batch_size=batch,
        features=net.features,
        strides=net.strides,
        kernels=net.kernels,
        blocks=net.blocks,
        normalise=normalise,
        anisotropic=_coarse_axis(target, median) is not None,
        channels=len(fingerprint.channels),
        classes=fingerprint.classes,
        max_features=widest,
        bytes_per_value=bytes_per_value,
        memory_gib=net_memory(net, batch, bytes_per_value) / GIB,
        notes=tuple(notes),
    )


def override(plan: Plan, *, spacing: Sequence[float] | None = None, patch: Sequence[int] | None = None, **changes: Any) -> Plan:
    """A plan with some fields changed, and what depends on them derived anew: shape, strides, kernels, widths, memory.

    Args:
      plan: as `plan` gives it.
      spacing: mm (D, H, W); the patch stays, cut to the new median shape, unless it is given too.
      patch: sides (D, H, W), which the strides must divide.
      changes: `batch_size`, `normalise`, `max_features`, `bytes_per_value`, `notes`; `features` and `blocks`, a number (of the
        first stage, of all stages) or one for each stage.

    Raises:
      InputError: a patch that the strides do not divide (the message names one that they do), a field that is derived.
    """
    derived = changes.keys() - {"batch_size", "normalise", "max_features", "bytes_per_value", "notes", "features", "blocks"}
    if derived:
        raise InputError(f"{', '.join(sorted(derived))} of a plan cannot be set\nset what it follows from, or plan again")
    shape, target = plan.shape, plan.spacing
    if spacing is not None:
        target = _checked_spacing(spacing, plan.dims)
        if bool(target) != bool(plan.spacing):
            raise InputError(f"a spacing of {target} mm for data whose own is {plan.spacing}\nplan again with the spacing")
        scale = [old / new if old and new else 1.0 for old, new in zip(plan.spacing, target)]
        shape = tuple(max(1, round(s * f)) for s, f in zip(plan.shape, scale))  # type: ignore[assignment]
    features, blocks = changes.pop("features", plan.features[0]), changes.pop("blocks", plan.blocks)
    widths = (features,) if isinstance(features, int) else tuple(features)
    pattern = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    if pattern == FULL[: len(pattern)]:
        pattern = FULL
    widest = changes.get("max_features", plan.max_features)
    rules = Rules(_steps(target, plan.dims), pattern, widest, plan.channels, plan.classes)
    if patch is not None:
        net = given(patch, rules, widths[0])
    elif spacing is not None:
        net = rules.net([min(p, s) for p, s in zip(plan.patch[-plan.dims :], shape[-plan.dims :])], widths[0])
    else:
        net = rules.net(plan.patch[-plan.dims :], widths[0])
    if len(widths) > 1:
        if len(widths) != len(net.features):
            raise InputError(f"{len(widths)} widths {widths} for {len(net.features)} stages\ngive one for each, or the first")
        net = net._replace(features=widths)
    changed = dataclasses.replace(
        plan,
        **changes,
        spacing=target,
        shape=shape,
        patch=(1,) * (3 - plan.dims) + net.patch,  # type: ignore[arg-type]
        anisotropic=_coarse_axis(target, shape) is not None,
        features=net.features,
        strides=net.strides,
        kernels=net.kernels,
        blocks=net.blocks,
    )
    if changed.batch_size < 1:
        raise InputError(f"a batch of {changed.batch_size}\ngive 1 at least")
    return dataclasses.replace(changed, memory_gib=net_memory(net, changed.batch_size, changed.bytes_per_value) / GIB)


def network(plan: Plan) -> Net:
    """The network of a plan, as `medjax.tasks.unet_cost` counts it."""
    patch = plan.patch[-plan.dims :]
    return Net(patch, plan.features, plan.strides, plan.kernels, plan.blocks, plan.channels, plan.classes)


def flops(plan: Plan) -> float:
    """Floating-point operations of a training step of a plan."""
    return net_flops(network(plan), plan.batch_size)


def describe(plan: Plan) -> str:
    """A plan in a few aligned lines, for people."""

    def times(values: Sequence[float]) -> str:
        return " x ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)

    shown = plan.spacing[-plan.dims :]
    lines = [
        ("network", f"{plan.dims}-D residual U-Net, {plan.channels} channels in, {plan.classes} classes out"),
        ("spacing", f"{times(shown)} mm{' (anisotropic)' * plan.anisotropic}" if shown else "pixels as they are"),
        ("median shape", times(plan.shape[-plan.dims :])),
        ("patch", f"{times(plan.patch[-plan.dims :])}, {plan.batch_size} a batch"),
        ("stages", " ".join(map(str, plan.features)) + " features, " + " ".join(map(str, plan.blocks)) + " blocks"),
        ("strides", " ".join("x".join(map(str, s)) for s in plan.strides)),
        ("kernels", " ".join("x".join(map(str, k)) for k in plan.kernels)),
        ("normalisation", " ".join(plan.normalise)),
        ("a step", f"about {plan.memory_gib:.2g} GiB, {human(flops(plan))}"),
    ]
    lines += [("note", note) for note in plan.notes]
    return "\n".join(f"{name:<14}{text}" for name, text in lines)


def _coarse_axis(spacing: Sequence[float], sides: Sequence[float]) -> int | None:
    """The axis that is `ANISOTROPIC` times as coarse as the next and has the fewest voxels; none in 2-D and in pixels."""
    if not spacing or min(spacing) <= 0:
        return None
    *_, next_, most = sorted(spacing)
    axis = list(spacing).index(most)
    return axis if most >= ANISOTROPIC * next_ and sides[axis] == min(sides) else None


def _target_spacing(fingerprint: Fingerprint, dims: int) -> tuple[tuple[float, ...], list[str]]:
    """((D, H, W) in mm, () in pixels; notes)."""
    spacings = fingerprint.spacings[:, 3 - dims :]
    known = ~np.isnan(spacings).any(1)
    unknown = int((~known).sum())
    if 2 * unknown > len(known) or not known.any():
        notes = [f"in pixels: the spacing of {unknown} of {len(known)} cases is not known"] if known.any() else []
        return (), notes
    notes = [f"{unknown} of {len(known)} cases are taken as they are: their spacing is not known"] if unknown else []
    spacings, shapes = spacings[known], fingerprint.shapes[known, 3 - dims :]
    target, sides = np.median(spacings, axis=0), np.median(shapes, axis=0)
    if dims == 2:
        return (0.0, float(target[0]), float(target[1])), notes
    coarse = _coarse_axis(target.tolist(), sides.tolist())
    if coarse is not None:
        # Resampling to the median would blur the slices of the half that has finer ones.
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), np.delete(target, coarse).max())
    return tuple(target.tolist()), notes


def _checked_spacing(spacing: Sequence[float], dims: int) -> tuple[float, ...]:
    target = tuple(map(float, spacing))
    if target and (len(target) != 3 or not all(0 < step < math.inf for step in target[3 - dims :])):
        raise InputError(f"a spacing of {target} mm\ngive (D, H, W), above 0 (D is not used in 2-D), or () to resample nothing")
    return (0.0, *target[1:]) if target and dims == 2 else target


def _steps(target: Sequence[float], dims: int) -> tuple[float, ...]:
    """Spacing of a network's axes, 1 in pixels."""
    return tuple(target[3 - dims :]) or (1.0,) * dims


def _resampled(fingerprint: Fingerprint, target: Sequence[float]) -> np.ndarray:
    """[n, 3] sides of the cases at the target spacing."""
    if not target:
        return fingerprint.shapes
    goal = np.array(target)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where((goal > 0) & ~np.isnan(fingerprint.spacings), fingerprint.spacings / goal, 1.0)
    return np.maximum(1, np.rint(fingerprint.shapes * scale)).astype(np.int64)


def _normalisation(fingerprint: Fingerprint) -> tuple[tuple[str, ...], list[str]]:
    """By modality: CT has absolute values; pictures of 8 bits without geometry a fixed range; all others are relative."""
    picture = fingerprint.kinds == ("uint8",) and bool(np.isnan(fingerprint.spacings).all())
    is_ct = [channel.strip().upper() == "CT" for channel in fingerprint.channels]
    absolute, notes = "ct", []
    if any(is_ct) and fingerprint.counts is not None and fingerprint.intensity is None:
        absolute = "zscore"
        notes = ["zscore in place of ct: no case has foreground to measure Hounsfield units in"]
    return tuple(absolute if ct else "range" if picture else "zscore" for ct in is_ct), notes
