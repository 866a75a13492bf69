"""The one door to convolutions: models take them from here, and the choice of formulation per backend stays behind it.

On the CPU they go through oneDNN where it can be had (`medjax.nn.onednn`), elsewhere and without it through lax. Values agree
to float32's rounding, parameters and names are flax's, and a model cannot tell which is in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.linen.linear import canonicalize_padding
from jax import lax

from medjax.core import current_scope

Padding = str | Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, by whichever path is in force.

    Args:
      lhs: [N, *S, C] where `dimension_numbers` says channels-last (as flax does); any other order goes to lax.
      rhs: kernel [*K, C / feature_group_count, O], of lhs's dtype.

    The others are lax's. oneDNN takes 1 to 3 spatial axes in float32 and bfloat16, strided, padded, dilated, grouped or
    transposed (lhs_dilation); what it does not take goes to lax.

    Returns:
      [N, *T, O], of lhs's dtype unless `preferred_element_type` says otherwise.
    """
    rank = lhs.ndim - 2
    plain = (1,) * rank
    strides, up = tuple(window_strides), tuple(lhs_dilation or plain)
    dilation, groups = tuple(rhs_dilation or plain), feature_group_count
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)

    def by_lax(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, strides, padding, up, dilation, numbers, groups, batch_group_count, precision, preferred_element_type
        )

    if not all(isinstance(n, int) for n in (*lhs.shape, *rhs.shape)):  # symbolic sizes belong to exports
        return by_lax(lhs, rhs)
    # What does not fit together is lax's to refuse, before anything of it reaches compiled code.
    made = jax.eval_shape(by_lax, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (lhs, rhs)))
    if 0 in (*lhs.shape, *rhs.shape, *made.shape):
        return by_lax(lhs, rhs)
    if numbers == channels_last(lhs.ndim) and not isinstance(padding, str) and any(p < 0 for pair in padding for p in pair):
        # Cropped in memory: XLA (jaxlib 0.10.2, CPU) reads outside of the array where a convolution has to crop. An axis is
        # padded and cropped at once, since a crop may be longer than the array before its padding.
        crops = [min(pair) < 0 for pair in padding]
        edges = [(*(pair if crop else (0, 0)), u - 1) for pair, crop, u in zip(padding, crops, up)]
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        padding, up = [(0, 0) if crop else pair for pair, crop in zip(padding, crops)], plain
    if (
        not _native()
        or not 1 <= rank <= 3
        or numbers != channels_last(lhs.ndim)
        or batch_group_count != 1
        or lhs.dtype != rhs.dtype
        or lhs.dtype not in (jnp.float32, jnp.bfloat16)
        or preferred_element_type not in (None, lhs.dtype)
        or (up != plain and strides != plain)
        or any(jax.typeof(lhs).sharding.spec)  # an explicit mesh: lax knows its types
        or any(jax.typeof(rhs).sharding.spec)
    ):
        return by_lax(lhs, rhs)
    effective = [(k - 1) * d + 1 for k, d in zip(rhs.shape, dilation)]
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(lhs.shape[1:-1], effective, strides, padding)
    else:
        pads = [(int(low), int(high)) for low, high in padding]
    if up != plain:
        return _transposed(lhs, rhs, up, pads, dilation, effective, groups, precision)
    if strides != plain and rhs.shape[:rank] == plain and not any(sum(pair) for pair in pads):
        # A point kernel sees nothing of what its stride leaves out. oneDNN 3.2 on AVX2 and several threads gives it a gradient
        # that is another at every call, and wrong.
        lhs, strides = lhs[(slice(None), *(slice(None, None, s) for s in strides))], plain
    return _plain(lhs, rhs, strides, pads, dilation, effective, groups, precision)


def _native() -> bool:
    """Whether what is traced now may take oneDNN."""
    if current_scope().portable:
        return False
    from medjax.nn.onednn import choice

    return choice().path == "onednn"


def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Activations [N, *S, C] and kernels [*S, I, O], for arrays of this rank."""
    last = rank - 1
    activation = (0, last, *range(1, last))
    return lax.ConvDimensionNumbers(activation, (last, last - 1, *range(rank - 2)), activation)


def _plain(x: Any, w: Any, strides: Any, pads: Any, dilation: Any, effective: Any, groups: int, precision: Any) -> jax.Array:
    from medjax.nn.onednn import primitive

    # oneDNN wants a padding within the kernel's reach; the zeros beyond it come before.
    inside = tuple((min(low, e - 1), min(high, e - 1)) for (low, high), e in zip(pads, effective))
    rest = [(low - i, high - j) for (low, high), (i, j) in zip(pads, inside)]
    if any(pair != (0, 0) for pair in rest):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in rest), (0, 0, 0)])
    geometry = primitive.Geometry(strides, inside, dilation, groups, precision)
    return primitive.bind(primitive.OUTPUT, x, w, geometry)


def _transposed(x: Any, w: Any, up: Any, pads: Any, dilation: Any, effective: Any, groups: int, precision: Any) -> jax.Array:
    """A convolution of the stretched input is the input's gradient of a strided one with the kernel mirrored.

    Dumoulin & Visin, arXiv:1603.07285, section 4.
    """
    from medjax.nn.onednn import primitive

    low = [e - 1 - p for e, (p, _) in zip(effective, pads)]
    size = tuple((n - 1) * u + 1 + p + q - e + 1 for n, u, (p, q), e in zip(x.shape[1:-1], up, pads, effective))
    high = [(n - 1) * u + e - s - lo for n, u, e, s, lo in zip(x.shape[1:-1], up, effective, size, low)]
    if any(p < 0 or p > e - 1 for p, e in zip(low, effective)) or min(high) < 0:
        # Beyond the kernel's reach: stretched in memory.
        edges = [(p, q, u - 1) for (p, q), u in zip(pads, up)]
        wide = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        return _plain(wide, w, (1,) * len(up), [(0, 0)] * len(up), dilation, effective, groups, precision)
    # [*K, c, (g o)] -> [*K, o, (g c)], mirrored.
    window, (c, o) = w.shape[:-2], w.shape[-2:]
    mirrored = jnp.flip(w, range(len(window))).reshape(*window, c, groups, o // groups)
    mirrored = jnp.moveaxis(mirrored, -1, -3)
    mirrored = jnp.swapaxes(mirrored, -1, -2).reshape(*window, o // groups, groups * c)
    geometry = primitive.Geometry(tuple(up), tuple(zip(low, high)), tuple(dilation), groups, precision)
    return primitive.bind(primitive.INPUT, x, mirrored, geometry, size)


def promote(*arrays: Any, dtype: Any = None, **more: Any) -> Any:
    """flax's promotion to a common dtype, with the engine's compute dtype where the module names none."""
    return promote_dtype(*arrays, dtype=dtype or current_scope().compute, **more)


class Conv(nn.Conv):
    """`flax.linen.Conv`, fast on the CPU too, computing in the engine's dtype unless `dtype` is given.

    Fields and parameters are flax's: kernel [*kernel_size, C / feature_group_count, features], bias [features], float32.
    x [..., *S, C] -> [..., *T, features], with 1 to 3 spatial axes.
    """

    conv_general_dilated: Any = conv_general_dilated
    promote_dtype: Any = promote


class ConvTranspose(nn.ConvTranspose):
    """`flax.linen.ConvTranspose`, fast on the CPU too, computing in the engine's dtype unless `dtype` is given.

    Fields and parameters are flax's, and `feature_group_count` besides: kernel [*kernel_size, C / feature_group_count,
    features] ([*kernel_size, features, C] with `transpose_kernel`), bias [features], float32. x [..., *S, C] ->
    [..., *T, features], where T = S * strides for "SAME" and S * strides + max(k - strides, 0) for "VALID", with k the
    dilated kernel's size.
    """

    promote_dtype: Any = promote
    feature_group_count: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """inputs [..., *S, C] -> [..., *T, features]."""
        size = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        rank, groups = len(size), self.feature_group_count
        pads = canonicalize_padding(self.padding, rank)
        if pads == "CIRCULAR":
            if groups != 1:
                raise ValueError("ConvTranspose: circular padding and feature groups do not go together")
            return super().__call__(inputs)
        if self.transpose_kernel and groups != 1:
            raise ValueError("ConvTranspose: transpose_kernel and feature groups do not go together")
        strides, dilation = _per_axis(self.strides, rank), _per_axis(self.kernel_dilation, rank)
        channels = inputs.shape[-1]
        if channels % groups or self.features % groups:
            raise ValueError(f"ConvTranspose: {groups} groups do not divide {channels} channels and {self.features} features")
        ends = (self.features, channels) if self.transpose_kernel else (channels // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, size + ends, self.param_dtype)
        if self.mask is not None:
            if self.mask.shape != kernel.shape:
                raise ValueError(f"ConvTranspose: mask {self.mask.shape} is not of the kernel's shape {kernel.shape}")
            kernel *= self.mask
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        lead = x.shape[: x.ndim - rank - 1]
        if self.transpose_kernel:
            kernel = jnp.swapaxes(jnp.flip(kernel, range(rank)), -1, -2)
        effective = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
        if isinstance(pads, str):
            pads = [_transposed_padding(e, s, pads) for e, s in zip(effective, strides)]
        y = conv_general_dilated(
            x.reshape(-1, *x.shape[len(lead) :]),
            kernel,
            (1,) * rank,
            pads,
            strides,
            dilation,
            channels_last(rank + 2),
            groups,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        y = y.reshape(*lead, *y.shape[1:])
        return y if bias is None else y + bias


def _per_axis(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    value = 1 if value is None else value
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _transposed_padding(kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) zeros around the stretched input, as `lax.conv_transpose` has them for "SAME" and "VALID"."""
    if padding == "SAME":
        both = kernel + stride - 2
        low = kernel - 1 if stride > kernel - 1 else -(-both // 2)
    elif padding == "VALID":
        both, low = kernel + stride - 2 + max(kernel - stride, 0), kernel - 1
    else:
        raise ValueError(f"ConvTranspose: padding {padding!r} is not one of SAME, VALID, CIRCULAR or (low, high) of every axis")
    return low, both - low
