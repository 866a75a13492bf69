"""The planner against plans that were published, XLA's own count of memory, and properties that hold for any data."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.core import scope
from medjax.errors import InputError
from medjax.flops import count_flops
from medjax.nn import Conv, ConvTranspose
from medjax.tasks import unet_cost
from medjax.tasks.fingerprint import fingerprint, fingerprint_geometry
from medjax.tasks.patch_search import topology
from medjax.tasks.planner import FULL, LIGHT, describe, flops, network, override, plan
from medjax.tasks.unet_cost import Net

NAN = (math.nan,) * 3


def data(shape, spacing=None, *, n=50, channels=("MR",), classes=3):
    return fingerprint_geometry([shape] * n, spacing and [spacing] * n, channels=channels, classes=classes)


# name -> cases, channels, classes, median shape and target spacing, and nnU-Net's patch and batch in 3d_fullres at 8 GB, with
# its plain U-Net of two convolutions a stage in half precision. The hippocampus' plan stands in nnU-Net's documentation
# (explanation_plans_files.md); the others are quoted from memory of its published plans (v2.1 and v2, Nature Methods 2021,
# supplementary note 6), whose case counts and medians are the data sets' own.
PUBLISHED = {
    "hippocampus": (260, 1, 3, (36, 50, 35), (1, 1, 1), (40, 56, 40), 9),
    "liver": (131, 1, 3, (482, 512, 512), (1, 0.767, 0.767), (128, 128, 128), 2),
    "prostate": (32, 2, 3, (20, 320, 319), (3.6, 0.62, 0.62), (20, 320, 256), 2),
    "ACDC": (200, 1, 4, (18, 246, 213), (5, 1.56, 1.56), (20, 256, 224), 3),
    "brain tumour": (484, 4, 4, (138, 170, 138), (1, 1, 1), (128, 128, 128), 2),
    "pancreas": (281, 1, 3, (96, 512, 512), (2.5, 0.8, 0.8), (40, 224, 224), 2),
    "hepatic vessel": (303, 1, 3, (150, 512, 512), (1.5, 0.8, 0.8), (64, 192, 192), 2),
    "spleen": (41, 1, 2, (187, 512, 512), (1.6, 0.79, 0.79), (64, 192, 160), 2),
    "heart": (20, 1, 2, (115, 320, 232), (1.37, 1.25, 1.25), (80, 192, 160), 2),
    "lung": (63, 1, 2, (252, 512, 512), (1.24, 0.79, 0.79), (80, 192, 160), 2),
    "colon": (126, 1, 2, (150, 512, 512), (3, 0.78, 0.78), (56, 192, 160), 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_plans_are_near_the_published_ones(name):
    n, channels, classes, shape, spacing, patch, batch = PUBLISHED[name]
    facts = data(shape, spacing, n=n, channels=("MR",) * channels, classes=classes)
    made = plan(facts, memory_gib=8, blocks=LIGHT, bytes_per_value=2)
    assert (made.dims, made.spacing, made.shape, made.batch_size) == (3, spacing, shape, batch)
    if name in ("heart", "lung", "colon"):  # one step apart along one axis
        apart = [abs(mine - theirs) for mine, theirs in zip(made.patch, patch)]
        assert sum(a > 0 for a in apart) == 1
        assert max(apart) <= 32
    else:
        assert made.patch == patch


def test_the_network_of_the_hippocampus():
    made = plan(data((36, 50, 35), (1, 1, 1), n=260), memory_gib=8)
    assert made.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert made.kernels == ((3, 3, 3),) * 4
    assert (made.features, made.blocks) == ((32, 64, 128, 256), FULL[:4])
    assert not made.anisotropic


def test_the_network_of_thick_slices():
    """Prostate: in-plane twice, then all axes, as nnU-Net's plan has it."""
    made = plan(data((20, 320, 319), (3.6, 0.62, 0.62)), memory_gib=8, blocks=LIGHT, bytes_per_value=2)
    assert made.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert made.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert made.features == (32, 64, 128, 256, 320, 320, 320)
    assert made.anisotropic


def test_the_coarse_axis_need_not_be_the_first():
    made = plan(data((320, 319, 20), (0.62, 0.62, 3.6)), memory_gib=8, blocks=LIGHT, bytes_per_value=2)
    assert made.patch[2] == 20
    assert made.strides[1] == (2, 2, 1)
    assert made.kernels[0] == (3, 3, 1)
    assert made.anisotropic


def test_a_coarse_axis_takes_its_tenth_percentile():
    thick = np.linspace(5, 10, 101)
    spacings = np.stack([thick, np.full(101, 1.56), np.full(101, 1.56)], 1)
    facts = fingerprint_geometry([(10, 240, 240)] * 101, spacings, channels=("MR",), classes=4)
    made = plan(facts, memory_gib=4)
    assert made.spacing == pytest.approx((np.percentile(thick, 10), 1.56, 1.56))
    assert made.shape[0] == round(np.median(np.rint(10 * thick / 5.5)))
    # Many thin slices are not a coarse axis, however far apart: the median.
    many = fingerprint_geometry([(300, 240, 240)] * 101, spacings, channels=("MR",), classes=4)
    assert plan(many, memory_gib=4).spacing[0] == pytest.approx(7.5)
    # Never finer than the others.
    spacings[:30, 0] = 1
    fine = fingerprint_geometry([(10, 240, 240)] * 101, spacings, channels=("MR",), classes=4)
    assert plan(fine, memory_gib=4).spacing[0] == pytest.approx(1.56)


def test_larger_cases_get_more_stages():
    stages = [len(plan(data((side,) * 3, (1, 1, 1)), memory_gib=40).features) for side in (8, 16, 32, 64, 128)]
    assert stages == [2, 3, 4, 5, 6]
    assert stages == sorted(stages)


def test_dimensions():
    assert plan(data((1, 512, 400)), memory_gib=40).patch == (1, 512, 448)
    few = plan(data((4, 256, 256), (8, 1, 1)), memory_gib=4)
    assert (few.dims, few.patch[0], few.spacing) == (2, 1, (0, 1, 1))
    assert "4 slices" in few.notes[0]
    assert plan(data((5, 256, 256), (8, 1, 1)), memory_gib=4).dims == 3
    asked = plan(data((100, 256, 256), (1, 1, 1)), memory_gib=4, dims=2)
    assert (asked.dims, asked.patch, asked.shape, asked.notes) == (2, (1, 256, 256), (100, 256, 256), ())
    assert all(len(s) == len(k) == 2 for s, k in zip(asked.strides, asked.kernels))
    assert max(plan(data((1, 2048, 2048)), memory_gib=60, dims=2).features) == 512


def test_spacings_that_are_not_known():
    pixels = plan(data((64, 64, 64)), memory_gib=4)
    assert (pixels.spacing, pixels.notes) == ((), ())
    spacings = np.array([(1.0, 1, 1), (1, 1, 1), NAN])
    some = fingerprint_geometry([(60, 60, 60), (64, 64, 64), (70, 70, 70)], spacings, channels=("MR",), classes=2)
    made = plan(some, memory_gib=4)
    assert (made.spacing, made.shape) == ((1, 1, 1), (64, 64, 64))
    assert "1 of 3 cases" in made.notes[0]
    spacings[1] = math.nan
    few = plan(some._replace(spacings=spacings), memory_gib=4)
    assert few.spacing == ()
    assert "2 of 3 cases" in few.notes[0]


def test_normalisation_follows_the_modality():
    volume = data((64, 64, 64), (1, 1, 1), channels=("CT", "PET"))
    assert plan(volume, memory_gib=4).normalise == ("ct", "zscore")
    picture = data((1, 64, 64), channels=("red", "green", "blue"))
    assert plan(picture._replace(kinds=("uint8",)), memory_gib=4).normalise == ("range",) * 3
    assert plan(picture._replace(kinds=("uint16",)), memory_gib=4).normalise == ("zscore",) * 3
    empty = plan(volume._replace(counts=np.zeros((50, 2), int)), memory_gib=4)
    assert empty.normalise == ("zscore", "zscore")
    assert "no case has foreground" in empty.notes[0]


def test_a_budget_of_operations():
    facts = data((482, 512, 512), (1, 0.767, 0.767))
    rich, poor = (plan(facts, memory_gib=4, blocks=LIGHT, flops_per_step=f) for f in (2e12, 1e11))
    assert flops(rich) <= 2e12
    assert flops(poor) <= 1e11
    assert poor.features[0] < rich.features[0] <= 32
    assert math.prod(poor.patch) >= 64**3
    assert "the budget is short" in poor.notes[0]
    capped = plan(facts, memory_gib=8, largest_patch=40_000)
    assert math.prod(capped.patch) <= 40_000
    assert capped.features[0] == 32


def test_the_batch_fills_the_memory_up_to_a_share_of_the_data():
    # 30 cases of 32^3: a twentieth is 1.5 patches, and 2 is the least.
    assert plan(data((32, 32, 32), (1, 1, 1), n=30), memory_gib=40).batch_size == 2
    assert plan(data((32, 32, 32), (1, 1, 1), n=400), memory_gib=40).batch_size == 20
    full = plan(data((32, 32, 32), (1, 1, 1), n=4000), memory_gib=2)
    assert full.memory_gib <= 2 < override(full, batch_size=full.batch_size + 1).memory_gib


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.none() | st.tuples(*[st.floats(0.2, 12)] * 3),
    dims=st.sampled_from([None, 2, 3]),
    memory=st.floats(0.2, 30),
    operations=st.none() | st.floats(1e9, 1e13),
    largest=st.none() | st.integers(1000, 10**6),
    blocks=st.sampled_from([FULL, LIGHT]),
)
def test_properties(shape, spacing, dims, memory, operations, largest, blocks):
    facts = data(shape, spacing)
    made = plan(
        facts, memory_gib=memory, dims=dims, flops_per_step=operations, largest_patch=largest, blocks=blocks, bytes_per_value=2
    )
    again = plan(
        facts, memory_gib=memory, dims=dims, flops_per_step=operations, largest_patch=largest, blocks=blocks, bytes_per_value=2
    )
    assert made == again
    d = made.dims
    divisors = [math.prod(along) for along in zip(*made.strides)]
    sides, median = made.patch[-d:], made.shape[-d:]
    assert all(side % divisor == 0 for side, divisor in zip(sides, divisors))
    # No larger than what covers the median.
    assert all(side < full + divisor for side, full, divisor in zip(sides, median, divisors))
    # Feature maps keep 4 voxels where an axis is halved at all.
    assert all(divisor == 1 or side // divisor >= 4 for side, divisor in zip(sides, divisors))
    assert len(made.features) == len(made.strides) == len(made.kernels) == len(made.blocks)
    assert made.strides[0] == (1,) * d
    assert made.batch_size >= 2
    within = made.memory_gib <= memory and flops(made) <= (operations or math.inf) and math.prod(sides) <= (largest or math.inf)
    assert within != any(note.startswith("beyond the budget") for note in made.notes)
    if not within:  # then everything that can give way has
        assert made.batch_size == 2
        assert made.features[0] == 8
        assert max(sides) < 32
    assert json.loads(json.dumps(dataclasses.asdict(made)))["patch"] == list(made.patch)
    assert len(describe(made).splitlines()) == 9 + len(made.notes)


@given(patch=st.tuples(*[st.integers(1, 400)] * 3), spacing=st.tuples(*[st.floats(0.2, 12)] * 3))
def test_an_axis_is_halved_with_its_equals(patch, spacing):
    strides, kernels = topology(patch, spacing)
    steps = np.array(spacing)
    for stride, kernel, last in zip(strides[1:], kernels, strides):
        assert max(stride) == 2
        halved = steps[np.array(stride) == 2]
        assert halved.max() < 2 * halved.min()
        assert all(k == 3 for k, step in zip(kernel, steps) if step < 2 * steps.min())
        assert max(last) <= 2
        steps = steps * stride
    assert kernels[-1] == (3, 3, 3)


def test_override():
    made = plan(data((20, 320, 319), (3.6, 0.62, 0.62)), memory_gib=8, blocks=LIGHT, bytes_per_value=2)
    assert override(made) == made
    cut = override(made, patch=(16, 128, 128), batch_size=4)
    assert (cut.patch, cut.batch_size, len(cut.features)) == ((16, 128, 128), 4, 6)
    assert cut.memory_gib == pytest.approx(unet_cost.memory(network(cut), 4, 2) / 2**30)
    assert cut.memory_gib < made.memory_gib
    iso = override(made, spacing=(0.62, 0.62, 0.62))
    assert (iso.shape, iso.anisotropic) == ((116, 320, 319), False)
    assert iso.strides[1] == (2, 2, 2)
    assert override(made, features=16).features == (16, 32, 64, 128, 256, 320, 320)
    assert override(made, features=(8,) * 7).features == (8,) * 7
    assert override(made, blocks=FULL).blocks == (*FULL, 6)
    with pytest.raises(InputError, match=r"\n.*\[20, 128, 128\]"):
        override(made, patch=(18, 120, 128))
    with pytest.raises(InputError, match="7 stages"):
        override(made, features=(8, 16))
    with pytest.raises(InputError, match="strides"):
        override(made, strides=())
    with pytest.raises(InputError, match="batch"):
        override(made, batch_size=0)
    with pytest.raises(InputError, match="spacing"):
        override(made, spacing=())


def test_settings_in_place_of_rules():
    facts = data((100, 256, 256), (2, 1, 1))
    assert plan(facts, memory_gib=4, spacing=(1, 1, 1)).shape == (200, 256, 256)
    assert plan(facts, memory_gib=4, spacing=()).spacing == ()
    asked = plan(facts, memory_gib=1, patch=(256, 256, 256))
    assert asked.patch == (256, 256, 256)
    assert "the patch asked for" in asked.notes[-1]
    assert plan(facts, memory_gib=4, patch=(32, 64, 64), batch_size=5).batch_size == 5
    for wrong in (
        {"memory_gib": 0},
        {"dims": 1},
        {"base_features": 0},
        {"blocks": ()},
        {"spacing": (1, 0, 1)},
        {"batch_size": 0},
    ):
        with pytest.raises(InputError):
            plan(facts, **{"memory_gib": 4, **wrong})
    for patch in ((33, 64, 64), (64, 64), (0, 64, 64)):
        with pytest.raises(InputError, match="patch"):
            plan(facts, memory_gib=4, patch=patch)


def cases(rng, n=3):
    for i in range(n):
        mask = np.zeros((4, 6, 5 + i), np.uint8)
        mask[1, :3], mask[2, 1:4], mask[3, 0] = 1, 2, 255
        image = rng.integers(-1000, 1000, (*mask.shape, 2)).astype(np.int16)
        yield {"image": image, "mask": mask, "spacing": np.array([5.0, 1, 1]), "known": np.array([1, 1 if i else -1], np.int8)}


def test_fingerprint_of_examples():
    examples = list(cases(np.random.default_rng(0)))
    facts = fingerprint(iter(examples), channels=("CT", "PET"), classes=3)
    assert facts.shapes.tolist() == [[4, 6, 5], [4, 6, 6], [4, 6, 7]]
    assert facts.kinds == ("int16",)
    assert facts.counts.tolist() == [[15, -1], [18, 18], [21, 21]]
    values = np.concatenate([e["image"][(e["mask"] == 1) | (e["mask"] == 2)] for e in examples]).astype(float)
    for channel in range(2):
        v = values[:, channel]
        np.testing.assert_allclose(
            facts.intensity[channel], [*np.percentile(v, [0.5, 50, 99.5]), v.mean(), v.std()], rtol=1e-12
        )
    # At most `voxels` of a case, drawn by the seed.
    few = [fingerprint(examples, channels=("CT", "PET"), classes=3, voxels=4, seed=s).intensity for s in (0, 0, 1)]
    assert np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], few[2])


def test_fingerprint_without_foreground():
    blank = {"image": np.zeros((2, 3, 3, 1), np.uint8), "mask": np.full((2, 3, 3), 255, np.uint8), "spacing": NAN}
    facts = fingerprint([blank], channels=("grey",), classes=2)
    assert facts.intensity is None
    assert facts.counts.tolist() == [[-1]]


def test_fingerprint_refuses_what_does_not_fit():
    good = next(cases(np.random.default_rng(0)))
    wrong = [
        [],
        [{**good, "image": good["image"][..., :1]}],
        [{**good, "mask": good["mask"][:2]}],
        [{**good, "mask": good["mask"] + 1}],
        [{**good, "spacing": np.array([0.0, 1, 1])}],
    ]
    for examples in wrong:
        with pytest.raises(InputError):
            fingerprint(examples, channels=("CT", "PET"), classes=3)
    with pytest.raises(InputError, match="case 0"):
        fingerprint_geometry([(0, 4, 4)], channels=("CT",), classes=2)
    with pytest.raises(InputError, match="classes"):
        fingerprint_geometry([(4, 4, 4)], channels=("CT",), classes=1)


class Norm(nn.Module):
    """Instance normalisation."""

    @nn.compact
    def __call__(self, x):
        scale, bias = (
            self.param(n, i, x.shape[-1:]) for n, i in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        )
        axes = tuple(range(1, x.ndim - 1))
        mean = x.mean(axes, keepdims=True)
        moved = x - mean
        return moved * jax.lax.rsqrt(jnp.square(moved).mean(axes, keepdims=True) + 1e-5) * scale + bias


class Counted(nn.Module):
    """The residual encoder U-Net as `Net` describes it."""

    net: Net

    @nn.compact
    def __call__(self, x):
        net, ones = self.net, (1,) * len(self.net.patch)
        x = nn.leaky_relu(Norm()(Conv(net.features[0], net.kernels[0], use_bias=False)(x)), 0.01)
        skips, heads = [], []
        for width, stride, kernel, blocks in zip(net.features, net.strides, net.kernels, net.blocks):
            for block in range(blocks):
                step = ones if block else stride
                y = nn.leaky_relu(Norm()(Conv(width, kernel, step, use_bias=False)(x)), 0.01)
                y = Norm()(Conv(width, kernel, use_bias=False)(y))
                x = nn.avg_pool(x, step, step) if max(step) > 1 else x
                x = x if x.shape[-1] == width else Norm()(Conv(width, ones, use_bias=False)(x))
                x = nn.leaky_relu(x + y, 0.01)
            skips.append(x)
        for level in reversed(range(len(net.features) - 1)):
            x = ConvTranspose(net.features[level], net.strides[level + 1], net.strides[level + 1])(x)
            x = Conv(net.features[level], net.kernels[level], use_bias=False)(jnp.concatenate([x, skips[level]], -1))
            x = nn.leaky_relu(Norm()(x), 0.01)
            heads.append(Conv(net.classes, ones)(x))
        return heads[::-1]


def loss(heads, labels, net):
    """Cross-entropy minus soft Dice at each resolution."""
    total = 0.0
    for logits, stride in zip(heads, [(1,) * len(net.patch), *net.strides[1:]]):
        labels = labels[(slice(None), *[slice(None, None, s) for s in stride])]
        truth, axes = jax.nn.one_hot(labels, net.classes), tuple(range(1, logits.ndim - 1))
        p = jax.nn.softmax(logits)
        dice = 2 * (p * truth).sum(axes) / (p.sum(axes) + truth.sum(axes) + 1)
        total += -(jax.nn.log_softmax(logits) * truth).sum(-1).mean() - dice.mean()
    return total


SMALL = {
    "slices": (Net((8, 32, 32), (8, 16), ((1, 1, 1), (1, 2, 2)), ((1, 3, 3), (3, 3, 3)), (1, 2), 2, 2), 2),
    "pictures of many classes": (Net((64, 64), (8, 16), ((1, 1), (2, 2)), ((3, 3), (3, 3)), (1, 1), 1, 20), 4),
}


@pytest.mark.parametrize("name", SMALL)
def test_memory_and_operations_are_those_of_the_compiled_step(name):
    net, batch = SMALL[name]
    model, tx = Counted(net), optax.adam(1e-3)
    image = jax.ShapeDtypeStruct((batch, *net.patch, net.channels), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, *net.patch), jnp.uint8)

    def step(params, opt, image, labels):
        grads = jax.grad(lambda p: loss(model.apply(p, image), labels, net))(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    with scope(portable=True):  # the same program with and without oneDNN
        params = jax.eval_shape(model.init, jax.random.key(0), image)
        opt = jax.eval_shape(tx.init, params)
        assert unet_cost.flops(net, batch) == pytest.approx(
            count_flops(jax.make_jaxpr(step)(params, opt, image, labels)), rel=1e-9
        )
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, opt, image, labels)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert unet_cost.parameters(net) == pytest.approx(weights, rel=0.03)
    # The optimisation of machine code changes no buffer, and takes half of the time.
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    taken = compiled.memory_analysis().temp_size_in_bytes + 12 * weights
    assert 0.8 <= unet_cost.memory(net, batch) / taken <= 1.5
