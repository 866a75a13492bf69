import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.cases import Cases
from medjax.core import AUGMENT, DROPOUT, State, augmented, example_keys, purpose_keys, scope
from medjax.engine import check_batch_size, make_engine
from medjax.errors import InputError
from medjax.flops import count_flops, human
from medjax.infer import batches


def bits(keys):
    return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).tolist()}


def test_example_keys_are_all_different_and_repeatable():
    key = jax.random.key(0)
    made = [purpose_keys(example_keys(key, step, 16), purpose) for step in range(3) for purpose in (AUGMENT, DROPOUT)]
    assert len(set().union(*map(bits, made))) == 3 * 2 * 16
    assert bits(example_keys(key, 1, 16)) == bits(example_keys(key, 1, 16))
    with scope(offset=8):
        assert bits(example_keys(key, 1, 8)) <= bits(example_keys(key, 1, 16)) | bits(example_keys(key, 1, 8))
    with scope(offset=8):
        part = example_keys(key, 1, 8)
    np.testing.assert_array_equal(jax.random.key_data(part), jax.random.key_data(example_keys(key, 1, 16))[8:])


def test_cases_take_and_extend_gather_late():
    cases = Cases({"label": np.arange(10), "id": np.array(list("abcdefghij"))})
    part = cases.take(np.array([7, 7, 2]))
    assert part["label"].tolist() == [7, 7, 2]
    assert len(part) == 3
    longer = part.extend(pair=np.array([0, 1, 2]))
    again = longer.take(np.array([2, 0]))
    assert (again["label"].tolist(), again["pair"].tolist(), again["id"].tolist()) == ([2, 7], [2, 0], ["c", "h"])
    assert cases.take(cases["label"] > 7)["id"].tolist() == ["i", "j"]
    assert cases.some(4)["id"].tolist() == ["a", "c", "f", "h"], "every two and a half"
    assert part.some(2)["id"].tolist() == ["h", "h"]
    assert cases.some(0) is cases.some(10) is cases
    assert "pair" in longer
    assert "pair" not in part
    assert longer.numeric() == ["label", "pair"]


def test_batches_cover_each_case_once_with_ordinary_padding():
    cases = Cases({"label": np.arange(7), "image": np.arange(14.0).reshape(7, 2)})
    seen = []
    for batch, n in batches(cases, 4):
        assert batch["image"].shape == (4, 2)
        assert batch["mask"].sum() == n
        seen += batch["label"][:n].tolist()
    assert seen == list(range(7))
    assert batch["label"].tolist() == [4, 5, 6, 4]
    assert list(batches(cases.take(np.array([], int)), 4)) == []


def test_augmentation_is_applied_to_each_example_with_its_own_key():
    seen = {}

    def update(state, batch, axis=None):
        seen["x"] = batch["x"]
        return state, {}

    from medjax.core import Task

    task = augmented(Task(None, update, None, None), lambda key, e: {**e, "x": e["x"] + jax.random.normal(key)})
    state = State(jnp.int32(3), {}, {}, {}, jax.random.key(0))
    task.update(state, {"x": jnp.zeros(6), "mask": jnp.ones(6, bool)})
    keys = purpose_keys(example_keys(jax.random.key(0), 3, 6), AUGMENT)
    np.testing.assert_array_equal(seen["x"], jax.vmap(jax.random.normal)(keys))
    assert len(set(seen["x"].tolist())) == 6


def test_flops_are_the_textbook_s():
    x, w = jnp.ones((8, 32)), jnp.ones((32, 16))
    assert count_flops(jax.make_jaxpr(jnp.dot)(x, w)) == 2 * 8 * 32 * 16

    def conv(x, k, stride=1, groups=1):
        return jax.lax.conv_general_dilated(
            x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    image = jnp.ones((2, 16, 16, 8))
    assert count_flops(jax.make_jaxpr(conv)(image, jnp.ones((3, 3, 8, 4)))) == 2 * 2 * 16 * 16 * 4 * 9 * 8
    grouped = jax.make_jaxpr(lambda x, k: conv(x, k, groups=8))(image, jnp.ones((3, 3, 1, 8)))
    assert count_flops(grouped) == 2 * 2 * 16 * 16 * 8 * 9

    def loop(h):
        return jax.lax.scan(lambda h, _: (h @ jnp.ones((16, 16)), None), h, length=50)[0]

    one = 2 * 4 * 16 * 16
    assert count_flops(jax.make_jaxpr(loop)(jnp.ones((4, 16)))) == 50 * one
    # The gradient of a product is two products.
    both = count_flops(jax.make_jaxpr(jax.grad(lambda w: jnp.sum((x @ w) ** 2)))(w))
    assert both == 2 * (2 * 8 * 32 * 16)
    assert human(3.07e9) == "3.07 GFLOP"


def test_gradient_flops_of_a_strided_convolution_are_about_twice_the_forward_s():
    def f(k, x):
        y = jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(y**2)

    k, x = jnp.ones((3, 3, 8, 8)), jnp.ones((2, 32, 32, 8))
    forward = count_flops(jax.make_jaxpr(f)(k, x))
    both = count_flops(jax.make_jaxpr(jax.grad(f, (0, 1)))(k, x))
    assert 2.5 < both / forward < 3.7


def test_engine_and_batch_size_are_checked():
    with pytest.raises(InputError, match="'tpu' is not one of auto, jit, pmap"):
        make_engine(None, "tpu")
    with pytest.raises(InputError, match=r"30 cannot be shared by 8 devices.*32"):
        check_batch_size(30, 8)
    check_batch_size(32, 8)


@pytest.mark.parametrize(("n", "kind"), [(1, "jit"), (8, "pmap")])
def test_auto_is_pmap_across_several_devices(n, kind):
    from families import FAMILIES

    engine = make_engine(FAMILIES["lstm"]().job.task, "auto", jax.devices()[:n])
    assert (engine.kind, engine.devices) == (kind, n)


def test_views_are_averaged_the_same_on_every_engine():
    import optax
    from families import FAMILIES, batch_of

    from medjax.models.resnet import ResNet
    from medjax.tasks.classification import classification, mirrored

    model, batch = ResNet(2, width=4, blocks=(1,)), batch_of(FAMILIES["cnn"]())
    plain, averaged = (classification(model, optax.sgd(0.1), views=v) for v in (None, mirrored))
    state = plain.init(jax.random.key(0), batch)
    left = plain.predict(state, batch)["score"]
    right = plain.predict(state, {**batch, "image": batch["image"][:, :, ::-1]})["score"]
    assert np.abs(left - right).max() > 1e-3
    for kind, n in (("jit", 1), ("jit", 8), ("pmap", 8)):
        engine = make_engine(averaged, kind, jax.devices()[:n])
        rows = engine.gather(engine.evaluate(engine.init(jax.random.key(0), engine.put(batch)), engine.put(batch)))
        np.testing.assert_allclose(rows["score"], (left + right) / 2, atol=1e-6)
        # The loss is the plain picture's: views belong to prediction.
        np.testing.assert_allclose(rows["loss"], -np.log(left[np.arange(16), batch["label"]]), atol=1e-5)
