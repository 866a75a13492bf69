"""State dicts as torchvision writes them: names and shapes, from the architectures' definitions, with values from the names."""

import itertools
import math
import zlib

import numpy as np


def _conv(name, out, inputs, *kernel):
    return {f"{name}.weight": (out, inputs, *kernel)}


def _norm(name, channels):
    tensors = {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**tensors, f"{name}.num_batches_tracked": ()}


def _affine(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def resnet(blocks, *, bottleneck, classes=1000, channels=3):
    """{name: shape} of torchvision's ResNet-18, 34 and 50."""
    names = {**_conv("conv1", 64, channels, 7, 7), **_norm("bn1", 64)}
    inputs = 64
    for stage, block in ((s, b) for s, count in enumerate(blocks) for b in range(count)):
        name, width = f"layer{stage + 1}.{block}", 64 << stage
        sides = ((1, width), (3, width), (1, 4 * width)) if bottleneck else ((3, width), (3, width))
        before = inputs
        for i, (side, out) in enumerate(sides, 1):
            names |= {**_conv(f"{name}.conv{i}", out, before, side, side), **_norm(f"{name}.bn{i}", out)}
            before = out
        if block == 0 and inputs != before:
            names |= {**_conv(f"{name}.downsample.0", before, inputs, 1, 1), **_norm(f"{name}.downsample.1", before)}
        inputs = before
    return names | _affine("fc", classes, inputs)


def densenet121(*, classes=1000, channels=3):
    """{name: shape} of torchvision's DenseNet-121."""
    names = {**_conv("features.conv0", 64, channels, 7, 7), **_norm("features.norm0", 64)}
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            names |= {**_norm(f"{name}.norm1", width), **_conv(f"{name}.conv1", 128, width, 1, 1)}
            names |= {**_norm(f"{name}.norm2", 128), **_conv(f"{name}.conv2", 32, 128, 3, 3)}
            width += 32
        if block < 4:
            name = f"features.transition{block}"
            names |= {**_norm(f"{name}.norm", width), **_conv(f"{name}.conv", width // 2, width, 1, 1)}
            width //= 2
    return names | _norm("features.norm5", width) | _affine("classifier", classes, width)


def convnext_tiny(*, classes=1000, channels=3):
    """{name: shape} of torchvision's ConvNeXt-T."""
    widths = (96, 192, 384, 768)
    names = {**_affine("features.0.0", 96, channels, 4, 4), **_affine("features.0.1", 96)}
    for stage, (width, blocks) in enumerate(zip(widths, (3, 3, 9, 3))):
        for block in range(blocks):
            name = f"features.{2 * stage + 1}.{block}"
            names[f"{name}.layer_scale"] = (width, 1, 1)
            names |= {**_affine(f"{name}.block.0", width, 1, 7, 7), **_affine(f"{name}.block.2", width)}
            names |= {**_affine(f"{name}.block.3", 4 * width, width), **_affine(f"{name}.block.5", width, 4 * width)}
    for stage, (before, width) in enumerate(itertools.pairwise(widths), 1):
        name = f"features.{2 * stage}"
        names |= {**_affine(f"{name}.0", before), **_affine(f"{name}.1", width, before, 2, 2)}
    return names | _affine("classifier.0", 768) | _affine("classifier.2", classes, 768)


def filled(names):
    """{name: array}: each tensor from a seed of its own name, at a scale that keeps the signal alive through the depth."""
    return {name: _values(name, shape) for name, shape in names.items()}


def _values(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if name.endswith("layer_scale"):
        return rng.uniform(0.2, 0.5, shape).astype(np.float32)
    if len(shape) > 1:
        return (rng.standard_normal(shape, np.float32) * math.sqrt(1.5 / math.prod(shape[1:]))).astype(np.float32)
    if name.endswith(("bias", "running_mean")):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    return rng.uniform(0.6, 1.0, shape).astype(np.float32)


def picture(channels, side=64):
    """[2, side, side, channels] float32 to ask a network about."""
    return np.random.default_rng(0).standard_normal((2, side, side, channels), np.float32)
