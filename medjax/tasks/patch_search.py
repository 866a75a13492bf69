"""The search for a patch: the network that a patch asks for, and the largest patch that a budget holds.

After nnU-Net (Isensee et al., Nature Methods 2021, online methods, "Inferred parameters"). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from medjax.errors import InputError
from medjax.tasks.unet_cost import Net, flops, memory

SMALLEST_MAP = 4  # voxels along an axis of the coarsest feature map
SIDE = 16  # a patch is not cut below it
START = {2: 2048**2, 3: 256**3}  # voxels of the patch that the search begins with
ENOUGH = {2: 256**2, 3: 64**3}  # voxels under which batch and width give way before the patch does
WANTED = {2: 12, 3: 2}  # examples in a batch that the patch makes room for
NARROWEST = 8


class Budget(NamedTuple):
    """What a training step may take on one device.

    Attributes:
      memory: bytes.
      flops: floating-point operations.
      voxels: of a patch.
      bytes_per_value: of the activations.
    """

    memory: float
    flops: float
    voxels: float
    bytes_per_value: int

    def holds(self, net: Net, batch: int) -> bool:
        """Whether a batch of the network's patches is within all of it."""
        return (
            math.prod(net.patch) <= self.voxels
            and memory(net, batch, self.bytes_per_value) <= self.memory
            and flops(net, batch) <= self.flops
        )


class Rules(NamedTuple):
    """What a network's shape depends on besides its patch."""

    spacing: tuple[float, ...]  # as many as dimensions, 1 in pixels
    blocks: tuple[int, ...]
    widest: int
    channels: int
    classes: int

    def net(self, patch: Sequence[int], width: int) -> Net:
        """The network for a patch, its sides raised to what the strides divide."""
        strides, kernels = topology(patch, self.spacing)
        n = len(strides)
        blocks = tuple(self.blocks[min(i, len(self.blocks) - 1)] for i in range(n))
        return Net(_raised(patch, strides), self.features(n, width), strides, kernels, blocks, self.channels, self.classes)

    def features(self, stages: int, width: int) -> tuple[int, ...]:
        """Doubled at each stage, up to `widest`."""
        return tuple(min(self.widest, width * 2**i) for i in range(stages))


def topology(patch: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """(strides, kernels) of each stage.

    An axis is halved while 4 voxels remain and its spacing is within a factor of 2 of the finest that can still be halved; the
    last axis left, only from 12 voxels on. A kernel is 1 along an axis until its spacing is within a factor of 2 of the finest,
    then 3; on the coarsest stage 3.
    """
    sides, steps = list(patch), list(spacing)
    axes = range(len(sides))
    strides, kernels, kernel = [(1,) * len(sides)], [], [1] * len(sides)
    while True:
        able = [a for a in axes if sides[a] >= 2 * SMALLEST_MAP]
        able = [a for a in able if steps[a] < 2 * min(steps[b] for b in able)]
        if not able or (len(able) == 1 and sides[able[0]] < 3 * SMALLEST_MAP):
            break
        kernel = [3 if k == 3 or step < 2 * min(steps) else 1 for k, step in zip(kernel, steps)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in able else 1 for a in axes))
        for a in able:
            sides[a], steps[a] = -(-sides[a] // 2), steps[a] * 2
    kernels.append((3,) * len(sides))
    return tuple(strides), tuple(kernels)


def _divisors(strides: Sequence[Sequence[int]]) -> list[int]:
    return [math.prod(along) for along in zip(*strides)]


def _raised(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(-(-side // d) * d for side, d in zip(patch, _divisors(strides)))


def given(patch: Sequence[int], rules: Rules, width: int) -> Net:
    """The network for a patch that a person asks for."""
    dims = len(rules.spacing)
    sides = tuple(int(side) for side in patch)[-dims:]
    if len(patch) not in (dims, 3) or min(sides) < 1 or any(side != 1 for side in patch[:-dims]):
        raise InputError(f"a patch of {list(patch)} for a network in {dims}-D\ngive {dims} sides of 1 or more")
    net = rules.net(sides, width)
    if net.patch != sides:
        good = rules.net(net.patch, width).patch
        raise InputError(f"a patch of {list(sides)}: {_divisors(net.strides)} do not divide it\ntake {list(good)}")
    return net


def _candidates(width: int, wanted: int, least: int) -> Iterator[tuple[int, int]]:
    """(width, batch) to try, in order of preference: the batch gives way to `least`, then the width to `NARROWEST`."""
    while True:
        batch = wanted
        yield width, batch
        while batch > least:
            batch = max(least, batch // 2)
            yield width, batch
        if width <= NARROWEST:
            return
        width = max(NARROWEST, width // 2)


def search(
    rules: Rules, median: Sequence[int], budget: Budget, width: int, batch_size: int | None, share: float
) -> tuple[Net, int]:
    """The network, and the batch that it was made room for.

    Args:
      rules: what else the network depends on.
      median: sides of the median case at the target spacing.
      budget: what a step may take.
      width: of the first stage, the preferred one.
      batch_size: a batch that is asked for; None: chosen here.
      share: voxels that a batch may hold, where it is chosen.
    """
    dims = len(median)
    # Equally long in mm along each axis.
    edge = (START[dims] * math.prod(rules.spacing)) ** (1 / dims)
    start = [min(max(1, round(edge / step)), side) for step, side in zip(rules.spacing, median)]
    path = list(_path(start, rules, median, width))
    path = [net for net in path if math.prod(net.patch) <= budget.voxels] or path[-1:]
    net, batch = path[-1], 2
    wanted = batch_size or max(2, min(WANTED[dims], round(share / math.prod(path[0].patch))))
    for narrow, batch in _candidates(width, wanted, batch_size or 2):
        nets = [net._replace(features=rules.features(len(net.strides), narrow)) for net in path]
        net = next((net for net in nets if budget.holds(net, batch)), nets[-1])
        if budget.holds(net, batch) and (net == nets[0] or math.prod(net.patch) >= ENOUGH[dims]):
            break
    return net, batch


def _path(start: Sequence[int], rules: Rules, median: Sequence[int], width: int) -> Iterator[Net]:
    """Networks for ever smaller patches: each time the axis is cut that covers most of the median shape and can be cut."""
    raw, net = list(start), rules.net(start, width)
    while True:
        yield net
        order = sorted(range(len(raw)), key=lambda a: (net.patch[a] / median[a], a), reverse=True)
        cuts = ((axis, _less(net.patch, raw, axis, rules)) for axis in order)
        axis, less = next(((axis, less) for axis, less in cuts if less), (0, 0))
        if not less:
            return
        raw[axis] = less
        net = rules.net(raw, width)


def _less(patch: Sequence[int], raw: Sequence[int], axis: int, rules: Rules) -> int:
    """The next smaller side along an axis, 0 where there is none.

    The step is what the strides of the smaller patch divide: 256 goes to 224, not to 192. `raw` sides only ever fall, so that
    the search ends.
    """

    def at(side: int) -> tuple[int, list[int]]:
        sides = [side if a == axis else raw[a] for a in range(len(raw))]
        strides, _ = topology(sides, rules.spacing)
        return _raised(sides, strides)[axis], _divisors(strides)

    _, divisors = at(patch[axis])
    step = at(max(1, patch[axis] - divisors[axis]))[1][axis]
    side = patch[axis] - step
    while side >= SIDE:
        side = min(side, raw[axis] - 1)
        if at(side)[0] < patch[axis]:
            return side if at(side)[0] >= SIDE else 0
        side -= step
    return 0


def largest_batch(net: Net, budget: Budget, batch: int, most: int) -> int:
    """From `batch` up to `most`, as many as the budget holds."""
    while batch < most:
        more = (batch + most + 1) // 2
        batch, most = (more, most) if budget.holds(net, more) else (batch, more - 1)
    return batch
