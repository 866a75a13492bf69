"""The recurrent cells, each written once for every form that `medjax.nn.recurrent` runs it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, jax.Array]
Carry = tuple[jax.Array, ...]  # states [n, H], h last


class Cell(NamedTuple):
    """What tells one recurrent cell from another; z [..., K] are its pre-activations, coefficients a tuple of arrays.

    join(zx [..., G*H], zh [..., G*H]) -> z: the input's and the state's part.
    pack(params) -> (w [D+H, K], b [K]), so that z = [x, h] @ w + b.
    step(z, carry) -> carry.
    plan(z, before, after) -> coefficients, all that `back` needs of the forward pass, for any number of steps at once.
    back(coefficients, dcarry) -> (dz, dcarry before the step but for what flows through z); linear in dcarry.
    """

    join: Callable[[jax.Array, jax.Array], jax.Array]
    pack: Callable[[Params], tuple[jax.Array, jax.Array]]
    step: Callable[[jax.Array, Carry], Carry]
    plan: Callable[[jax.Array, Carry, Carry], tuple[jax.Array, ...]]
    back: Callable[[tuple[jax.Array, ...], Carry], tuple[jax.Array, Carry]]


def _stack(params: Params) -> tuple[jax.Array, jax.Array]:
    return jnp.concatenate([params["input_kernel"], params["recurrent_kernel"]]), params["bias"]


RNN = Cell(
    join=jnp.add,
    pack=_stack,
    step=lambda z, carry: (jnp.tanh(z),),
    plan=lambda z, before, after: (1 - jnp.square(after[0]),),
    back=lambda coefficients, dcarry: (dcarry[0] * coefficients[0], (jnp.zeros_like(dcarry[0]),)),
)


def _activate(z: jax.Array, sigmoids: tuple[bool, ...]) -> list[jax.Array]:
    """sigmoid or tanh of each block of columns, by one tanh over all: sigmoid(a) = (1 + tanh(a / 2)) / 2."""
    half = np.repeat(np.where(sigmoids, 0.5, 1.0), z.shape[-1] // len(sigmoids)).astype(z.dtype)
    return jnp.split(jnp.tanh(z * half) * half + (1 - half), len(sigmoids), -1)


_IFGO = (True, True, False, True)


def _lstm_step(z: jax.Array, carry: Carry) -> Carry:
    i, f, g, o = _activate(z, _IFGO)
    c = f * carry[0] + i * g
    return c, o * jnp.tanh(c)


def _lstm_plan(z: jax.Array, before: Carry, after: Carry) -> tuple[jax.Array, ...]:
    i, f, g, o = _activate(z, _IFGO)
    t = jnp.tanh(after[0])
    ifg = jnp.concatenate([g * i * (1 - i), before[0] * f * (1 - f), i * (1 - g * g)], -1)
    return ifg, t * o * (1 - o), o * (1 - t * t), f


def _lstm_back(coefficients: tuple[jax.Array, ...], dcarry: Carry) -> tuple[jax.Array, Carry]:
    ifg, o, h, f = coefficients
    dc, dh = dcarry
    dc = dc + dh * h
    return jnp.concatenate([jnp.concatenate([dc, dc, dc], -1) * ifg, dh * o], -1), (dc * f, jnp.zeros_like(dh))


LSTM = Cell(jnp.add, _stack, _lstm_step, _lstm_plan, _lstm_back)


# The candidate's two parts, x W_n + b_n and h U_n + c_n, stay apart in z: r multiplies the second alone. z = [r, z, n_x, n_h].
def _gru_join(zx: jax.Array, zh: jax.Array) -> jax.Array:
    h = zx.shape[-1] // 3
    return jnp.concatenate([zx[..., : 2 * h] + zh[..., : 2 * h], zx[..., 2 * h :], zh[..., 2 * h :]], -1)


def _gru_pack(params: Params) -> tuple[jax.Array, jax.Array]:
    h = params["candidate_bias"].shape[0]
    x = jnp.pad(params["input_kernel"], ((0, 0), (0, h)))
    u = params["recurrent_kernel"]
    u = jnp.concatenate([u[:, : 2 * h], jnp.zeros((h, h), u.dtype), u[:, 2 * h :]], -1)
    return jnp.concatenate([x, u]), jnp.concatenate([params["bias"], params["candidate_bias"]])


def _gru_gates(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    h = z.shape[-1] // 4
    r, u = _activate(z[..., : 2 * h], (True, True))
    return r, u, jnp.tanh(z[..., 2 * h : 3 * h] + r * z[..., 3 * h :]), z[..., 3 * h :]


def _gru_step(z: jax.Array, carry: Carry) -> Carry:
    _, u, n, _ = _gru_gates(z)
    return ((1 - u) * n + u * carry[0],)


def _gru_plan(z: jax.Array, before: Carry, after: Carry) -> tuple[jax.Array, ...]:
    r, u, n, nh = _gru_gates(z)
    dn = (1 - u) * (1 - n * n)
    return jnp.concatenate([dn * nh * r * (1 - r), (before[0] - n) * u * (1 - u), dn, dn * r], -1), u


def _gru_back(coefficients: tuple[jax.Array, ...], dcarry: Carry) -> tuple[jax.Array, Carry]:
    dh = dcarry[0]
    return jnp.concatenate([dh, dh, dh, dh], -1) * coefficients[0], (dh * coefficients[1],)


GRU = Cell(_gru_join, _gru_pack, _gru_step, _gru_plan, _gru_back)
