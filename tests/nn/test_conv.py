"""Convolutions by oneDNN against float64 sums, lax, flax and PyTorch, under every transformation and on several devices."""

import functools
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.core import scope
from medjax.flops import count_flops
from medjax.nn import Conv, ConvTranspose
from medjax.nn.conv import channels_last, conv_general_dilated
from medjax.nn.onednn import primitive, supply


@pytest.fixture(scope="module", autouse=True)
def onednn(cache):
    """oneDNN in force, for arrays of any size; without it these tests would compare lax with itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(supply.SWITCH, "on")  # a busy machine's timing must not decide
        try:
            supply.ready()
        except supply._NotToBeHad as why:
            pytest.skip(f"no oneDNN here: {why.reason}")
        supply._decide.cache_clear()
        assert supply.choice().path == "onednn"
        patch.setattr(primitive, "SMALL", 0)
        yield
    supply._decide.cache_clear()
    jax.clear_caches()


class Problem(NamedTuple):
    """A convolution in the words of lax, and `rank` spatial axes."""

    x: tuple
    w: tuple
    strides: tuple
    padding: object
    up: tuple
    dilation: tuple
    groups: int

    def by(self, convolve):
        """x, w -> y by `convolve`."""
        numbers = channels_last(len(self.x))
        return lambda x, w: convolve(x, w, self.strides, self.padding, self.up, self.dilation, numbers, self.groups)

    def arrays(self, seed=0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        return tuple(rng.normal(size=shape).astype(dtype) for shape in (self.x, self.w))


def taps(problem, pads):
    """For each kernel position, the rows of x that output positions read on every axis, and which of them are real.

    Yields (kernel index, [rows per axis], [real per axis]).
    """
    sizes, kernel = problem.x[1:-1], problem.w[:-2]
    out = output_shape(problem, pads)[1:-1]
    for k in itertools.product(*map(range, kernel)):
        rows, real = [], []
        for i, n in enumerate(sizes):
            at = np.arange(out[i]) * problem.strides[i] + k[i] * problem.dilation[i] - pads[i][0]
            inside = (at >= 0) & (at % problem.up[i] == 0) & (at // problem.up[i] < n)
            rows.append(np.where(inside, at // problem.up[i], 0))
            real.append(inside)
        yield k, rows, real


@functools.cache
def output_shape(problem, pads=None):
    shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (problem.x, problem.w))
    return jax.eval_shape(problem.by(lax.conv_general_dilated), *shapes).shape


def float64_sums(problem, pads, x, w, dy):
    """(y, dx, dw) as sums over kernel positions in float64.

    y[n, t, o] = sum over k, c of x[n, (t stride + k dilation - low) / up, c] w[k, c, o], terms outside of x left out.
    """
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    groups = problem.groups
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    if 0 in (*x.shape, *w.shape, *y.shape):
        return y, dx, dw

    def grouped(a):
        return a.reshape(*a.shape[:-1], groups, -1)

    for k, rows, real in taps(problem, pads):
        index = (slice(None), *np.ix_(*rows))
        mask = functools.reduce(np.multiply.outer, [r.astype(float) for r in real])[None, ..., None]
        patch, slab = x[index] * mask, grouped(w[k])
        y += np.einsum("...gc,cgo->...go", grouped(patch), slab).reshape(y.shape)
        dw[k] += np.einsum(
            "Ngc,Ngo->cgo", grouped(patch.reshape(-1, x.shape[-1])), grouped(dy.reshape(-1, dy.shape[-1]))
        ).reshape(dw[k].shape)
        back = np.einsum("...go,cgo->...gc", grouped(dy), slab).reshape(patch.shape) * mask
        np.add.at(dx, index, back)
    return y, dx, dw


def off(got, wanted, terms=0.0):
    """|got - wanted| / |wanted| in Euclid's norm; shapes and emptiness must agree.

    terms: the sums of the terms' sizes: what cancels to less than a tenth of them is measured against that tenth.
    """
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    return np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 0.1 * np.linalg.norm(terms), 1e-30)


def all_off(got, wanted):
    got, wanted = jax.tree.leaves(got), jax.tree.leaves(wanted)
    assert len(got) == len(wanted) > 0
    return max(map(off, got, wanted))


def with_gradients(convolve):
    """x, w, dy -> y, dx, dw."""

    def call(x, w, dy):
        y, pull = jax.vjp(convolve, x, w)
        return y, *pull(dy)

    return jax.jit(call)


@st.composite
def problems(draw):
    rank = draw(st.integers(1, 3))

    def each(*among):
        return tuple(draw(st.sampled_from(among)) for _ in range(rank))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    per, out = draw(st.sampled_from([1, 1, 2, 3, 8, 16, 40])), draw(st.sampled_from([1, 1, 2, 5, 8, 16, 32]))
    if draw(st.integers(0, 15)) == 0:  # wide, and so on few positions
        groups, per, out = draw(st.sampled_from([(1, 512, 64), (512, 1, 1), (1, 3, 512), (32, 16, 16)]))
        sizes, kernel = each(1, 2, 3), each(1, 2)
    else:
        sizes, kernel = each(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), each(1, 1, 2, 3, 3, 4, 5)
    transposed = draw(st.integers(0, 3)) == 0
    strides, up = ((1,) * rank, each(1, 2, 3)) if transposed else (each(1, 1, 2, 3), (1,) * rank)
    if draw(st.booleans()) and up == (1,) * rank:
        padding = draw(st.sampled_from(["SAME", "VALID", "SAME_LOWER"]))
    else:
        numbers = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 11, -1, -2, -4])
        padding = tuple((draw(numbers), draw(numbers)) for _ in range(rank))
    x = (draw(st.sampled_from([0, 1, 1, 2, 3])), *sizes, groups * per)
    return Problem(x, (*kernel, per, groups * out), strides, padding, up, each(1, 1, 1, 2, 3), groups)


def explicit(problem):
    """The (low, high) padding of every axis."""
    if not isinstance(problem.padding, str):
        return problem.padding
    effective = [(k - 1) * d + 1 for k, d in zip(problem.w, problem.dilation)]
    return tuple(lax.padtype_to_pads(problem.x[1:-1], effective, problem.strides, problem.padding))


def check_values(problem, seed):
    try:
        shape = output_shape(problem)
    except (TypeError, ValueError):
        assume(False)
    x, w = problem.arrays(seed)
    dy = np.random.default_rng(seed + 1).normal(size=shape).astype(np.float32)
    pads = explicit(problem)
    truth = float64_sums(problem, pads, x, w, dy)
    terms = float64_sums(problem, pads, *map(np.abs, (x, w, dy)))
    got = with_gradients(problem.by(conv_general_dilated))(x, w, dy)
    for name, a, b, t in zip(("y", "dx", "dw"), got, truth, terms):
        assert a.dtype == jnp.float32
        assert off(a, b, t) < 1e-6, name
    return x, w, dy, truth, terms


few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(problems(), st.integers(0, 3))
@example(Problem((2, 3, 4), (3, 4, 5), (1,), ((-5, 2),), (1,), (1,), 1), 0)  # cropped to less than nothing
@example(Problem((2, 9, 8), (3, 8, 8), (1,), ((40, 50),), (1,), (2,), 1), 0)
@example(Problem((2, 8, 9, 8), (2, 2, 1, 8), (3, 3), "VALID", (1, 1), (1, 1), 8), 0)  # rows that no output reads
def test_output_and_gradients_are_float64_sums(problem, seed):
    check_values(problem, seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.integers(0, 3))
def test_a_thousand_shapes_are_float64_sums_and_lax(problem, seed):
    x, w, dy, truth, terms = check_values(problem, seed)

    def worst(convolve):
        return max(map(off, with_gradients(problem.by(convolve))(x, w, dy), truth, terms))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primitive, "SMALL", math.inf)
        assert worst(conv_general_dilated) < 1e-6
    # XLA reads outside of the array where 1-wide kernels meet negative padding (jaxlib 0.10.2): no truth to compare with.
    if min(itertools.chain(*explicit(problem))) >= 0:
        assert worst(lax.conv_general_dilated) < 1e-6


def test_a_crop_may_be_longer_than_the_array():
    """The output lies in the padding alone: found by the sweep above."""
    problem = Problem((1, 1, 512), (1, 512, 64), (1,), ((2, -2),), (1,), (1,), 1)
    x, w, dy, truth, terms = check_values(problem, 0)
    assert max(map(off, with_gradients(problem.by(conv_general_dilated))(x, w, dy), truth, terms)) < 1e-6


PLAIN = Problem((2, 6, 7, 8), (3, 3, 8, 16), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
GROUPED = Problem((2, 7, 6, 8), (3, 2, 2, 12), (2, 1), ((0, 1), (1, 0)), (1, 1), (1, 1), 4)
STRETCHED = Problem((2, 4, 5, 8), (3, 2, 4, 6), (1, 1), ((1, 2), (1, 1)), (2, 2), (1, 1), 2)


@pytest.mark.parametrize("problem", [PLAIN, GROUPED, STRETCHED])
def test_bfloat16_is_float32_rounded(problem):
    # Inputs are bfloat16 exactly, sums are float32, so that what differs is the last rounding: 2 ** -9 of each value.
    x, w = (a.astype(jnp.bfloat16) for a in problem.arrays())
    dy = np.random.default_rng(1).normal(size=output_shape(problem)).astype(jnp.bfloat16)
    got = with_gradients(problem.by(conv_general_dilated))(x, w, dy)
    truth = float64_sums(problem, explicit(problem), x, w, dy)
    for a, b in zip(got, truth):
        assert a.dtype == jnp.bfloat16
        assert off(a, b) < 2**-8
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=2**-8, atol=2**-8 * np.abs(b).max() / 4)


def both(problem, transform):
    """|ours - lax's| / |lax's| of transform(convolution)(x, w)."""
    x, w = map(jnp.asarray, problem.arrays())
    ours, theirs = (jax.jit(transform(problem.by(c)))(x, w) for c in (conv_general_dilated, lax.conv_general_dilated))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)
    return all_off(ours, theirs)


def scalar(convolve):
    return lambda x, w: (jnp.sin(0.1 * convolve(x, w)) ** 2).sum()


def doubled(x):
    return jnp.stack([x, -2 * x, x + 1])


def scanned(convolve):
    def loss(x, w):
        def step(carry, scale):
            return carry + scalar(convolve)(x * carry, w * scale), None

        return lax.scan(jax.checkpoint(step), 0.01, jnp.array([1.0, 0.5, -0.3]))[0]

    return jax.grad(loss, (0, 1))


def branched(convolve):
    def call(x, w):
        y = lax.cond(x.sum() > 1e9, lambda: convolve(x, w), lambda: convolve(2 * x, w))
        return y, lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(convolve(x, w) + c[1])), (0, y))[1]

    return call


TRANSFORMS = {
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (x + 1, w - 1)),
    "grad of grad": lambda f: jax.grad(
        lambda x, w: sum((g**2).sum() for g in jax.grad(scalar(f), (0, 1))(x, w)),
        (0, 1),
    ),
    "jvp of grad": lambda f: lambda x, w: jax.jvp(jax.grad(scalar(f), (0, 1)), (x, w), (x + 1, w - 1)),
    "hessian": lambda f: (
        lambda x, w: jax.hessian(lambda s, t: scalar(f)(x * s, w * t), (0, 1))(jnp.ones(2)[:, None, None, None], 1.0)
    ),
    "linear_transpose": lambda f: lambda x, w: jax.linear_transpose(lambda v: f(v, w), x)(f(x, w)),
    "vmap x": lambda f: lambda x, w: jax.vmap(f, (0, None))(doubled(x), w),
    "vmap w": lambda f: lambda x, w: jax.vmap(f, (None, 0))(x, doubled(w)),
    "vmap both": lambda f: lambda x, w: jax.vmap(f)(doubled(x), doubled(w)),
    "vmap of other axes": lambda f: lambda x, w: jax.vmap(f, (1, -1), 2)(jnp.stack([x, x + 1], 1), jnp.stack([w, w + 1], -1)),
    "nested vmap": lambda f: lambda x, w: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(doubled(x), doubled(w)),
    "vmap of vmap": lambda f: lambda x, w: jax.vmap(jax.vmap(f))(doubled(doubled(x)), doubled(doubled(w))),
    "vmap of grad, x": lambda f: lambda x, w: jax.vmap(jax.grad(scalar(f), (0, 1)), (0, None))(doubled(x), w),
    "vmap of grad, w": lambda f: lambda x, w: jax.vmap(jax.grad(scalar(f), (0, 1)), (None, 0))(x, doubled(w)),
    "vmap of grad, both": lambda f: lambda x, w: jax.vmap(jax.grad(scalar(f), (0, 1)))(doubled(x), doubled(w)),
    "remat in scan": scanned,
    "cond and while": branched,
}


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(PLAIN, id="plain", marks=pytest.mark.slow),
        pytest.param(GROUPED, id="grouped"),
        pytest.param(STRETCHED, id="stretched", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformations(name, problem):
    assert both(problem, TRANSFORMS[name]) < 5e-6


def test_hessian_is_that_of_lax():
    problem = Problem((1, 4, 2), (2, 1, 2), (1,), ((0, 1),), (1,), (1,), 2)
    assert both(problem, lambda f: jax.hessian(scalar(f), (0, 1))) < 3e-6


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_of_nothing(axes):
    x, w = (np.zeros((0, *s) if a == 0 else s, np.float32) for s, a in zip((PLAIN.x, PLAIN.w), axes))
    y, pull = jax.vjp(jax.vmap(PLAIN.by(conv_general_dilated), axes), x, w)
    assert y.shape == (0, *output_shape(PLAIN))
    assert [g.shape for g in pull(y)] == [x.shape, w.shape]


def test_what_does_not_fit_is_refused_in_the_words_of_lax():
    bad = (
        PLAIN._replace(strides=(1,)),
        PLAIN._replace(x=(2, 6, 7, 5)),
        PLAIN._replace(groups=3),
        PLAIN._replace(padding=((1, 1),)),
        PLAIN._replace(padding="SAME", up=(2, 2)),
        PLAIN._replace(dilation=(1, 0)),
    )
    for problem in bad:
        said = []
        for convolve in (conv_general_dilated, lax.conv_general_dilated):
            with pytest.raises((TypeError, ValueError)) as caught:
                problem.by(convolve)(*problem.arrays())
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]


def test_dtypes_and_orders_that_are_not_ours_go_to_lax():
    x, w = PLAIN.arrays()
    half = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    numbers = channels_last(4)
    wide = conv_general_dilated(*half, (1, 1), "SAME", dimension_numbers=numbers, preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    for dtype in (jnp.int32, jnp.float16, jnp.complex64):
        a, b = x.astype(dtype), w.astype(dtype)
        y = PLAIN.by(conv_general_dilated)(a, b)
        assert y.dtype == dtype
        assert off(np.abs(y), np.abs(PLAIN.by(lax.conv_general_dilated)(a, b))) == 0
    first = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    assert (
        off(conv_general_dilated(*first, (1, 1), "SAME").transpose(0, 2, 3, 1), PLAIN.by(lax.conv_general_dilated)(x, w)) < 1e-6
    )
    with jax.enable_x64(True):
        a, b = PLAIN.arrays(dtype=np.float64)
        assert PLAIN.by(conv_general_dilated)(a, b).dtype == np.float64
        assert off(PLAIN.by(conv_general_dilated)(x, w), PLAIN.by(conv_general_dilated)(a, b)) < 1e-6
    with pytest.raises(TypeError, match="same dtypes"):
        PLAIN.by(conv_general_dilated)(x, w.astype(jnp.bfloat16))


def test_one_buffer_for_both_and_a_donated_one():
    z = np.random.default_rng(0).normal(size=(8, 8, 8, 8)).astype(np.float32)
    problem = Problem(z.shape, z.shape, (1, 1), ((4, 3), (3, 4)), (1, 1), (1, 1), 1)
    truth = float64_sums(problem, problem.padding, z, z, np.zeros(output_shape(problem)))[0]
    for donated in ((), (0,)):
        call = jax.jit(problem.by(conv_general_dilated), donate_argnums=donated)
        a = jnp.array(z)
        assert off(call(a, jnp.array(z) if donated else a), truth) < 1e-6


# Devices.

MESHED = Problem((16, 8, 9, 8), (3, 3, 8, 16), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)


def squares(convolve):
    return lambda x, w: jnp.square(MESHED.by(convolve)(x, w)).sum()


@functools.cache
def meshed_truth(n=16):
    x, w = MESHED.arrays()
    return jax.jit(jax.value_and_grad(squares(lax.conv_general_dilated), (0, 1)))(x[:n], w)


def mesh_of(shape, axes=AxisType.Auto):
    names = ("a", "b")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(axes,) * len(shape), devices=jax.devices()[: math.prod(shape)])


def put(mesh, *specs):
    return [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(MESHED.arrays(), specs)]


@pytest.mark.parametrize("n", [1, 4, 8])
def test_a_batch_over_devices_is_not_gathered(n):
    arrays = put(mesh_of((n,)), P("a"), P())
    compiled = jax.jit(jax.value_and_grad(squares(conv_general_dilated), (0, 1))).lower(*arrays).compile()
    value, (dx, dw) = compiled(*arrays)
    assert all_off((value, (dx, dw)), meshed_truth()) < 1e-6
    assert "all-gather" not in compiled.as_text()
    assert "medjax_conv_output" in compiled.as_text()
    assert dx.sharding.shard_shape(dx.shape)[0] == 16 // n
    assert dw.sharding.is_fully_replicated


LAYOUTS = {
    "two axes": (P(("a", "b")), P()),
    "two axes, swapped": (P(("b", "a")), P()),
    "replicated": (P(), P()),
    "rows": (P("a", "b"), P()),
    "channels": (P("a", None, None, "b"), P()),
    "kernel's outputs": (P("a"), P(None, None, None, "b")),
    "kernel's outputs, x whole": (P(), P(None, None, None, ("a", "b"))),
    "kernel's inputs": (P(None, None, None, "b"), P(None, None, "b")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_over_a_mesh_is_right(name):
    arrays = put(mesh_of((4, 2)), *LAYOUTS[name])
    assert all_off(jax.jit(jax.value_and_grad(squares(conv_general_dilated), (0, 1)))(*arrays), meshed_truth()) < 1e-6


def test_a_batch_that_the_devices_do_not_divide():
    split = NamedSharding(mesh_of((8,)), P("a"))

    def loss(x, w):
        y = MESHED._replace(x=(13, *MESHED.x[1:])).by(conv_general_dilated)(lax.with_sharding_constraint(x, split), w)
        return jnp.square(lax.with_sharding_constraint(y, split)).sum()

    x, w = MESHED.arrays()
    assert all_off(jax.jit(jax.value_and_grad(loss, (0, 1)))(x[:13], w), meshed_truth(13)) < 1e-6


@pytest.mark.parametrize("spec", [P("a"), P(("a", "b")), P("a", "b"), P()])
def test_an_explicit_mesh(spec):
    mesh = mesh_of((4, 2), AxisType.Explicit)
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(squares(conv_general_dilated), (0, 1)))(*put(mesh, spec, P()))
    assert all_off(jax.device_get(got), meshed_truth()) < 1e-6


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("manual", [("a",), ("a", "b")])
def test_shard_map(check_vma, manual):
    mesh = mesh_of((4, 2))
    local = jax.shard_map(
        lambda x, w: lax.psum(squares(conv_general_dilated)(x, w), manual),
        mesh=mesh,
        in_specs=(P(manual), P()),
        out_specs=P(),
        axis_names=set(manual),
        check_vma=check_vma,
    )
    arrays = put(mesh, P(("a", "b")), P())
    assert all_off(jax.jit(jax.value_and_grad(local, (0, 1)))(*arrays), meshed_truth()) < 1e-6


@pytest.mark.parametrize("n", [1, 4, 8])
def test_pmap(n):
    x, w = MESHED.arrays()

    def local(x, w):
        value, (dx, dw) = jax.value_and_grad(squares(conv_general_dilated), (0, 1))(x, w)
        return lax.psum(value, "d"), (dx, lax.psum(dw, "d"))

    step = jax.pmap(local, "d", in_axes=(0, None), out_axes=(None, (0, None)), devices=jax.devices()[:n])
    value, (dx, dw) = step(x.reshape(n, -1, *x.shape[1:]), w)
    assert all_off((value, (dx.reshape(x.shape), dw)), meshed_truth()) < 1e-6


def test_vmap_over_kernels_that_the_devices_share_out():
    split = NamedSharding(mesh_of((8,)), P("a"))
    x, w = MESHED.arrays()
    xs, ws = x[:, None], w * np.arange(16, dtype=np.float32)[:, None, None, None, None]
    ours, theirs = (
        jax.jit(jax.vmap(MESHED.by(c)), in_shardings=(split, split))(xs, ws)
        for c in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert off(ours, theirs) < 1e-6


# Modules.

CONVS = {
    "1-D": ((4, 9, 6), {"features": 8, "kernel_size": 3}),
    "2-D": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 5), "strides": 2}),
    "3-D": ((2, 5, 6, 7, 2), {"features": 4, "kernel_size": (3, 3, 3), "strides": (1, 2, 1)}),
    "no batch": ((9, 8, 3), {"features": 8, "kernel_size": (3, 3), "padding": 1}),
    "batch dims": ((2, 3, 1, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "padding": (1, 2)}),
    "no bias": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "use_bias": False, "padding": ((1, 2), (0, 3))}),
    "circular": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 4), "padding": "CIRCULAR", "strides": (2, 1)}),
    "reflect": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "padding": "REFLECT"}),
    "causal": ((2, 9, 3), {"features": 8, "kernel_size": (3,), "padding": "CAUSAL", "kernel_dilation": 2}),
    "valid": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "padding": "VALID", "kernel_dilation": (2, 1)}),
    "groups": ((2, 9, 8, 6), {"features": 12, "kernel_size": (3, 3), "feature_group_count": 3}),
    "depthwise": ((2, 9, 8, 6), {"features": 6, "kernel_size": (3, 3), "feature_group_count": 6}),
    "stretched": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "input_dilation": 2, "padding": 1}),
    "float16": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "dtype": jnp.float16}),
    "param_dtype": ((2, 9, 8, 3), {"features": 8, "kernel_size": (3, 3), "param_dtype": jnp.bfloat16}),
    "mask": (
        (2, 9, 8, 3),
        {"features": 8, "kernel_size": (3, 3), "mask": np.tri(9).reshape(3, 3, 9)[..., :3, None].repeat(8, -1)},
    ),
}
TRANSPOSED = {
    "1-D": ((4, 9, 6), {"features": 8, "kernel_size": 3}),
    "2-D": ((2, 5, 4, 3), {"features": 8, "kernel_size": (4, 4), "strides": (2, 2)}),
    "3-D": ((2, 3, 4, 5, 2), {"features": 4, "kernel_size": (2, 3, 2), "strides": (1, 2, 2)}),
    "no batch": ((5, 4, 3), {"features": 8, "kernel_size": (3, 3), "strides": (2, 2), "padding": 1}),
    "batch dims": ((2, 3, 1, 5, 4, 3), {"features": 8, "kernel_size": (2, 2), "strides": (2, 2)}),
    "gaps": ((2, 5, 4, 3), {"features": 8, "kernel_size": (2, 2), "strides": (3, 3), "padding": "VALID"}),
    "gaps, same": ((2, 5, 4, 3), {"features": 8, "kernel_size": (2, 1), "strides": (3, 4)}),
    "valid": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 4), "strides": (2, 3), "padding": "VALID", "use_bias": False}),
    "dilated": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "strides": (2, 1), "kernel_dilation": (2, 3)}),
    "padded": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "strides": (2, 2), "padding": ((1, 2), (3, 0))}),
    "cropped": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "strides": (2, 2), "padding": ((-1, 2), (3, 7))}),
    "circular": ((2, 5, 4, 3), {"features": 8, "kernel_size": (4, 3), "strides": (2, 2), "padding": "CIRCULAR"}),
    "transposed": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "strides": (2, 2), "transpose_kernel": True}),
    "both": (
        (2, 5, 4, 3),
        {"features": 8, "kernel_size": (4, 4), "strides": (2, 2), "transpose_kernel": True, "padding": "CIRCULAR"},
    ),
    "float16": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "dtype": jnp.float16}),
    "wide sums": (
        (2, 5, 4, 3),
        {"features": 8, "kernel_size": (3, 3), "dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
    ),
    "param_dtype": ((2, 5, 4, 3), {"features": 8, "kernel_size": (3, 3), "param_dtype": jnp.bfloat16}),
    "mask": (
        (2, 5, 4, 3),
        {"features": 8, "kernel_size": (3, 3), "mask": np.tri(9).reshape(3, 3, 9)[..., :3, None].repeat(8, -1)},
    ),
}
MODULES = [("conv", n) for n in CONVS] + [("transpose", n) for n in TRANSPOSED]


@pytest.mark.parametrize(("kind", "name"), MODULES)
def test_modules_are_those_of_flax(kind, name):
    shape, fields = (CONVS if kind == "conv" else TRANSPOSED)[name]
    ours, theirs = (m(**fields) for m in ((Conv, nn.Conv) if kind == "conv" else (ConvTranspose, nn.ConvTranspose)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    # `test_parameters_begin_as_in_flax` looks at the values; drawing them here would take most of the time.
    made, wanted = (jax.eval_shape(m.init, jax.random.key(3), x) for m in (ours, theirs))
    assert made == wanted
    variables = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype), wanted)

    def loss(module):
        def call(variables, x):
            y = module.apply(variables, x)
            return jnp.square(y.astype(jnp.float32)).sum(), y

        return jax.jit(jax.value_and_grad(call, (0, 1), has_aux=True))(variables, x)

    (a, b) = loss(ours), loss(theirs)
    assert jax.tree.map(lambda v: (v.shape, v.dtype), a) == jax.tree.map(lambda v: (v.shape, v.dtype), b)
    coarse = fields.get("dtype") or fields.get("param_dtype")
    assert all_off(a, b) < (1e-2 if coarse else 3e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [(Conv, nn.Conv, {"feature_group_count": 3}), (ConvTranspose, nn.ConvTranspose, {"strides": (2, 2)})],
)
def test_parameters_begin_as_in_flax(ours, theirs, more):
    made = [m(6, (3, 2), **more).init(jax.random.key(3), jnp.ones((1, 5, 5, 3))) for m in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, *made)


def test_grouped_transpose_is_each_group_alone():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 8)).astype(np.float32)
    module = ConvTranspose(12, (4, 3), strides=(2, 2), feature_group_count=4)
    variables = module.init(jax.random.key(0), x)
    kernel, alone = variables["params"]["kernel"], nn.ConvTranspose(3, (4, 3), strides=(2, 2), use_bias=False)
    assert kernel.shape == (4, 3, 2, 12)
    parts = [alone.apply({"params": {"kernel": kernel[..., 3 * g : 3 * g + 3]}}, x[..., 2 * g : 2 * g + 2]) for g in range(4)]
    assert off(module.apply(variables, x), np.concatenate(parts, -1)) < 1e-6


@pytest.mark.parametrize(
    "fields",
    [
        {"padding": "CIRCULAR", "feature_group_count": 2},
        {"transpose_kernel": True, "feature_group_count": 2},
        {"feature_group_count": 3},
        {"padding": "CAUSAL"},
        {"mask": np.ones((3, 3, 4, 5))},
    ],
)
def test_transposes_that_cannot_be(fields):
    with pytest.raises(ValueError, match="ConvTranspose"):
        ConvTranspose(4, (3, 3), **fields).init(jax.random.key(0), jnp.zeros((1, 5, 5, 4)))


def test_transpose_is_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 6, 5, 7)).astype(np.float32), rng.normal(size=(6, 4, 4, 3)).astype(np.float32)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x), torch.from_numpy(w), stride=(2, 3), padding=(1, 1), groups=2
    )
    # torch's kernel [C, O / groups, *K] is mirrored; its padding p leaves k - 1 - p zeros around the stretched input.
    kernel = w.reshape(2, 3, 4, 4, 3)[..., ::-1, ::-1].transpose(3, 4, 1, 0, 2).reshape(4, 3, 3, 8)
    module = ConvTranspose(8, (4, 3), strides=(2, 3), padding=((2, 2), (1, 1)), feature_group_count=2, use_bias=False)
    ours = module.apply({"params": {"kernel": np.ascontiguousarray(kernel)}}, x.transpose(0, 2, 3, 1))
    assert off(ours.transpose(0, 3, 1, 2), theirs.numpy()) < 1e-6


# The same numbers, always.


def test_steps_are_equal_to_the_bit_in_any_thread():
    step = jax.jit(jax.value_and_grad(squares(conv_general_dilated), (0, 1)))
    x, w = MESHED.arrays()
    first = jax.device_get(step(x, w))

    def again(i):
        out = jax.device_get(step(x, w))
        return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(first)))

    assert all(map(again, range(10)))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(48)))


def test_threads_of_different_shapes_do_not_meet():
    problems = [PLAIN._replace(x=(2, 6 + i, 7, 8)) for i in range(8)]
    steps = [with_gradients(p.by(conv_general_dilated)) for p in problems]
    alone = []
    for problem, step in zip(problems, steps):
        dy = np.ones(output_shape(problem), np.float32)
        alone.append(jax.device_get(step(*problem.arrays(), dy)))

    def many(i):
        arrays = *problems[i].arrays(), np.ones(output_shape(problems[i]), np.float32)
        return all(
            np.array_equal(a, b) for _ in range(20) for a, b in zip(jax.device_get(steps[i](*arrays)), alone[i], strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))


# Exports.


def test_a_portable_trace_has_nothing_of_this_machine():
    x, w = map(jnp.asarray, MESHED.arrays())
    step = jax.jit(jax.value_and_grad(squares(conv_general_dilated), (0, 1)))
    here = step(x, w)  # the same function, traced for this machine before
    with scope(portable=True):
        exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(x, w)
    assert "medjax_conv" not in exported.mlir_module()
    assert all_off(exported.call(x, w), here) < 1e-6
    assert "medjax_conv" in step.lower(x, w).as_text()  # and for this machine after
    pytest.importorskip("flatbuffers")
    assert all_off(jax.export.deserialize(exported.serialize()).call(x, w), here) < 1e-6


def test_a_symbolic_batch_is_exported():
    x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 9, 8, 3), jnp.float32)
    module = Conv(8, (3, 3), strides=2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 9, 8, 3)))
    with scope(portable=True):
        exported = jax.export.export(jax.jit(lambda x: module.apply(variables, x)))(x)
    real = np.random.default_rng(0).normal(size=(5, 9, 8, 3)).astype(np.float32)
    assert off(exported.call(real), module.apply(variables, real)) < 1e-6


def test_other_platforms_get_the_convolution_of_xla():
    x, w = MESHED.arrays()
    text = jax.export.export(jax.jit(MESHED.by(conv_general_dilated)), platforms=("cuda",))(x, w).mlir_module()
    assert "stablehlo.convolution" in text
    assert "medjax_conv" not in text


def test_the_scope_of_a_trace_is_part_of_its_key():
    module, x = Conv(8, (3, 3)), jnp.ones((1, 8, 8, 3))
    variables = module.init(jax.random.key(0), x)
    call = jax.jit(module.apply)
    assert call(variables, x).dtype == jnp.float32
    with scope(compute=jnp.bfloat16):
        assert call(variables, x).dtype == jnp.bfloat16
    assert call(variables, x).dtype == jnp.float32


@pytest.mark.parametrize("problem", [PLAIN, GROUPED._replace(x=(2, 8, 6, 8)), STRETCHED], ids=["plain", "strided", "stretched"])
def test_both_paths_count_the_same_flops(problem):
    counts = []
    for convolve in (conv_general_dilated, lax.conv_general_dilated):
        step = jax.value_and_grad(lambda x, w, c=convolve: problem.by(c)(x, w).sum(), (0, 1))
        counts.append(count_flops(jax.make_jaxpr(step)(*problem.arrays())))
    assert counts[0] == pytest.approx(counts[1])


def test_a_point_kernel_with_a_stride_has_one_gradient():
    """oneDNN 3.2 gave it another, and a wrong one, at every call on AVX2 with two threads."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 32, 32, 4)).astype(np.float32), rng.normal(size=(1, 1, 4, 8)).astype(np.float32)
    g = rng.normal(size=(16, 16, 16, 8)).astype(np.float32)

    @jax.jit
    def gradient(w):
        y = conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y * g).sum()

    gradient = jax.jit(jax.grad(gradient))
    truth = np.einsum("nhwc,nhwo->co", x[:, ::2, ::2].astype(np.float64), g)
    for _ in range(20):
        np.testing.assert_allclose(gradient(w)[0, 0], truth, rtol=1e-4, atol=1e-3)
