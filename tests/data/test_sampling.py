import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from medjax.cases import Cases
from medjax.data.pipeline import pipeline
from medjax.data.sampling import class_weights, rarest_class
from medjax.errors import InputError


def make_cases(label):
    label = np.asarray(label)
    return Cases({"index": np.arange(len(label)), "label": label, "group": np.arange(len(label))})


def drawn(label, batch_size, steps, seed=0):
    batch = pipeline(make_cases(label), batch_size, seed=seed, sampling="classes")
    return np.stack([batch(step)["index"] for step in range(steps)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(1, 17), st.integers(0, 9))
def test_classes_come_equally_often_and_each_shuffled_without_repeats(label, batch_size, seed):
    label = np.array(label)
    present = np.unique(label[label >= 0])
    if not present.size:
        with pytest.raises(InputError, match="no training case has a label"):
            drawn(label, batch_size, 1)
        return
    rows = drawn(label, batch_size, 12, seed)
    # To within one at any time, and no case twice before all of its class.
    for end in range(1, 13):
        so_far = rows[:end].ravel()
        counts = np.array([(label[so_far] == k).sum() for k in present])
        assert counts.sum() == len(so_far)  # unlabelled ones never
        assert np.ptp(counts) <= 1
        for k in present:
            times = np.bincount(so_far, minlength=len(label))[label == k]
            # Within a batch the order is shuffled, not the choice.
            assert np.ptp(times) <= 1


def test_a_class_batch_is_a_function_of_seed_and_step():
    label = np.arange(30) % 7 % 3
    make = [pipeline(make_cases(label), 8, seed=seed, sampling="classes") for seed in (3, 3, 4)]
    forth = [make[0](step)["index"] for step in range(20)]
    for step in (19, 0, 7, 7, 3):
        np.testing.assert_array_equal(make[1](step)["index"], forth[step])
    assert any((make[2](step)["index"] != forth[step]).any() for step in range(3))


def test_neighbours_of_a_class_batch_are_of_any_classes():
    """Else mixup would never see two of a kind."""
    label = np.arange(40) % 2
    pairs = label[drawn(label, 40, 30)].reshape(-1, 2)
    assert 0.35 < (pairs[:, 0] == pairs[:, 1]).mean() < 0.65


def test_multi_label_cases_count_under_their_rarest_positive_class():
    label = np.array([[1, 0, 0], [1, 1, 0], [1, -1, 0], [0, 0, 0], [-1, -1, -1], [1, 1, 1], [0, -1, -1], [0, 1, 1]], np.int8)
    assert rarest_class(label).tolist() == [0, 1, 0, 3, -1, 2, 3, 2]
    rows = drawn(label, 8, 10)
    assert 4 not in rows
    counts = np.bincount(rarest_class(label)[rows].ravel())
    assert counts.tolist() == [20, 20, 20, 20]


def test_groups_of_multi_label_cases_weigh_the_same():
    label = np.array([[1, 0]] * 9 + [[1, 0]] + [[0, 1]] * 10, np.int8)
    group = np.array([0] * 9 + [1] + [2] * 10)
    cases = Cases({"index": np.arange(20), "label": label, "group": group})
    rows = np.concatenate([pipeline(cases, 500, seed=0, sampling="groups")(step)["index"] for step in range(20)])
    share = np.bincount(group[rows], minlength=3) / len(rows)
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.02)


def test_classes_of_numbers_are_refused():
    with pytest.raises(InputError, match="numbers, not classes"):
        drawn(np.linspace(0, 1, 5), 2, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
def test_balanced_weights_are_scikit_learn_s(label, missing):
    label = np.array(label)
    weights = class_weights(np.append(label, np.full(missing, -1)), 5)
    present = np.unique(label)
    np.testing.assert_allclose(weights[present], compute_class_weight("balanced", classes=present, y=label), rtol=1e-12)
    assert (np.delete(weights, present) == 0).all()
    np.testing.assert_allclose(weights[label].mean(), 1)


def test_multi_label_weights_are_negatives_over_positives():
    label = np.array([[1, 0, 0, -1, 1], [0, 0, 1, -1, 1], [0, -1, 1, -1, -1], [0, 0, 1, -1, 1]], np.int8)
    assert class_weights(label, 5, cap=20).tolist() == [3, 20, 1 / 3, 1, 0]
    assert class_weights(label, 5, "none").tolist() == [1] * 5


def test_bad_weights_are_refused():
    with pytest.raises(InputError, match="'inverse' are not one of balanced, none"):
        class_weights(np.zeros(3, int), 2, "inverse")
    with pytest.raises(InputError, match="the label 2 is outside 0 to 1"):
        class_weights(np.array([0, 2]), 2)
    assert class_weights(np.full(3, -1), 2).tolist() == [0, 0]
