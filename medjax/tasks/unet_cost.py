"""What a step of the residual encoder U-Net takes: values kept, floating-point operations, parameters. Pure arithmetic."""

from __future__ import annotations

import math
from typing import NamedTuple

GIB = 2.0**30
STATE = 16  # bytes a parameter: itself, its gradient and two moments of the optimizer, float32


class Net(NamedTuple):
    """A residual encoder U-Net (Isensee et al., MICCAI 2024, "nnU-Net Revisited") and the patch that it is given.

    A stem convolution; at each stage `blocks` residual blocks of two convolutions, the first of them strided, with a 1x1 (x1)
    convolution on the pooled shortcut where the width changes; on the way up a transposed convolution as large as its stride,
    the skip beside it, one convolution, and a head of logits at each resolution. All but heads and transposed convolutions are
    followed by normalisation and an activation.

    Attributes:
      patch: sides, as many as dimensions; the product of the strides of an axis divides its side.
      features: width of each stage.
      strides: of each stage, those of the first being 1.
      kernels: of each stage.
      blocks: residual blocks of each stage.
      channels: of the input.
      classes: of the output, background included.
    """

    patch: tuple[int, ...]
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    channels: int
    classes: int


class _Convolution(NamedTuple):
    voxels: int  # of the output
    inputs: int
    outputs: int
    taps: int  # inputs that one output sees, in space
    weights: int


def _voxels(net: Net) -> list[int]:
    """Voxels of each stage's maps."""
    sides, voxels = net.patch, []
    for stride in net.strides:
        sides = tuple(side // s for side, s in zip(sides, stride))
        voxels.append(math.prod(sides))
    return voxels


def _convolutions(net: Net) -> list[_Convolution]:
    """Every convolution; the stem first."""

    def made(v: int, inputs: int, outputs: int, taps: int, places: int | None = None) -> _Convolution:
        return _Convolution(v, inputs, outputs, taps, inputs * outputs * (places or taps))

    voxels, before = _voxels(net), net.features[0]
    found = [made(voxels[0], net.channels, before, math.prod(net.kernels[0]))]
    for v, width, kernel, blocks in zip(voxels, net.features, net.kernels, net.blocks):
        taps = math.prod(kernel)
        for block in range(blocks):
            inputs = width if block else before
            found += [made(v, inputs, width, taps), made(v, width, width, taps)]
            if inputs != width:
                found.append(made(v, inputs, width, 1))
        before = width
    for level in range(len(net.features) - 1):
        v, width = voxels[level], net.features[level]
        # Of a transposed convolution as large as its stride, an output sees one input.
        found.append(made(v, net.features[level + 1], width, 1, math.prod(net.strides[level + 1])))
        found.append(made(v, 2 * width, width, math.prod(net.kernels[level])))
        found.append(made(v, width, net.classes, 1))
    return found


def parameters(net: Net) -> int:
    """Weights of the convolutions; biases and the affine maps of normalisation, some thousandth of them, left out."""
    return sum(c.weights for c in _convolutions(net))


def flops(net: Net, batch: int) -> float:
    """Floating-point operations of forward and backward pass: multiply-adds times two of all convolutions.

    The backward pass takes twice the forward one, one convolution for the input's gradient and one for the kernel's, but the
    stem's input needs none. Element-wise work is left out, as in `medjax.flops`, with which this agrees.
    """
    each = [2.0 * c.voxels * c.inputs * c.outputs * c.taps for c in _convolutions(net)]
    return batch * (3 * sum(each) - each[0])


def kept(net: Net) -> float:
    """Values of one example that are alive at once when the backward pass begins, the memory's peak.

    A convolution leaves its output (normalisation's gradient needs it), the normalised values (the activation's does) and the
    activated ones (the next convolution's does): 3 maps. A block's second convolution is activated after the shortcut is
    added: 3, and the sum. A shortcut leaves its pooled input and 2 maps, the way up the two halves put side by side and 3, a
    head of logits 4 (logits, probabilities, one-hot truth, gradient). The gradients on their way through the finest stage are
    6 maps more. Counted on programs that XLA compiled (tests/tasks/test_planner.py).
    """
    voxels, before = _voxels(net), net.features[0]
    values = (3 + 6) * voxels[0] * before + voxels[0] * net.channels
    for v, width, blocks in zip(voxels, net.features, net.blocks):
        values += 7 * v * width * blocks
        if before != width:
            values += v * (before + 2 * width)
        before = width
    for v, width in zip(voxels[:-1], net.features):
        values += v * (5 * width + 4 * net.classes)
    return float(values)


def memory(net: Net, batch: int, bytes_per_value: int = 4) -> float:
    """Bytes of a training step: `kept` of every example, and `STATE` a parameter.

    Between .89 and 1.17 times XLA's temporary memory and the state, in float32 on the CPU, with and without oneDNN, over ten
    networks in 2-D and 3-D of 7 MiB to 2.8 GiB. Not measured on an accelerator.

    Args:
      net: the network and its patch.
      batch: examples on one device.
      bytes_per_value: 4 in float32, 2 in bfloat16 on an accelerator (on the CPU XLA holds bfloat16 as float32).
    """
    return batch * kept(net) * bytes_per_value + STATE * parameters(net)
