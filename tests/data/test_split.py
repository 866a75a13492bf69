from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.data.duplicates import components
from medjax.data.split import clear_leaks, group_cases, make_folds, make_splits, rarest_class, split_groups
from medjax.errors import InputError

FRACTIONS = (0.65, 0.15, 0.2)


@st.composite
def grouped(draw, least=3, classes=2):
    """Groups of 1 to 6 cases, each of one class, at least `least` groups a class: (group, label), cases shuffled."""
    group, label = [], []
    for k in range(classes):
        for size in draw(st.lists(st.integers(1, 6), min_size=least, max_size=25)):
            group += [len(set(group))] * size
            label += [k] * size
    order = np.random.default_rng(draw(st.integers(0, 1000))).permutation(len(group))
    return np.array(group)[order] * 7 + 3, np.array(label)[order]


@st.composite
def fractions(draw):
    return np.array(draw(st.lists(st.floats(0.05, 1), min_size=2, max_size=3)))


@settings(max_examples=150, deadline=None)
@given(grouped(), fractions(), st.integers(0, 99))
def test_groups_stay_whole_and_fractions_are_met(cases, shares, seed):
    group, label = cases
    part = split_groups(group, label, shares, seed=seed)
    assert part.shape == group.shape
    assert set(part) == set(range(len(shares)))
    for g in np.unique(group):
        assert len(set(part[group == g])) == 1
    for k in np.unique(label):
        mine = label == k
        largest = np.unique(group[mine], return_counts=True)[1].max()
        counts = np.bincount(part[mine], minlength=len(shares))
        assert (counts > 0).all()  # each class stands in each part
        wanted = shares / shares.sum() * mine.sum()
        assert (np.abs(counts - wanted) <= largest * (len(shares) - 1) + 1e-9).all()
        if (wanted >= largest).all():  # else a part might have stayed empty
            assert (np.abs(counts - wanted) <= largest + 1e-9).all()
            assert (np.abs(np.cumsum(counts - wanted)) <= largest / 2 + 1e-9).all()
    np.testing.assert_array_equal(part, split_groups(group, label, shares * 4, seed=seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 9), st.integers(0, 99))
def test_as_many_groups_as_needed_are_enough(n, seed):
    # With three groups of equal size no middle falls into the 15 % of validation.
    part = split_groups(np.arange(n), np.zeros(n, int), FRACTIONS, seed=seed)
    assert set(part) == {0, 1, 2}


def test_another_seed_gives_another_split():
    group, label = np.arange(60), np.arange(60) % 2
    parts = [split_groups(group, label, FRACTIONS, seed=seed) for seed in range(4)]
    assert len({part.tobytes() for part in parts}) == 4


def test_large_groups_of_one_patient_do_not_break_the_shares():
    group = np.repeat(np.arange(300), np.random.default_rng(0).integers(1, 9, 300))
    label = (group % 3 == 0).astype(int)
    part = split_groups(group, label, FRACTIONS, seed=0)
    np.testing.assert_allclose(np.bincount(part) / len(part), FRACTIONS, atol=8 / len(part) * 2)


def test_a_group_of_two_labels_is_kept_whole():
    label = np.array([0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1])
    group = np.array([0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    part = split_groups(group, label, (1, 1, 1), seed=3)
    assert all(len(set(part[group == g])) == 1 for g in range(9))


def test_patients_who_all_have_both_classes_can_be_split():
    group, label = np.repeat(np.arange(20), 3), np.tile([0, 0, 1], 20)  # class 1 is nobody's commonest
    part = split_groups(group, label, FRACTIONS, seed=0)
    np.testing.assert_allclose(np.bincount(part[label == 1]) / 20, FRACTIONS, atol=1 / 20)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=4), max_size=30), st.integers(0, 99))
def test_groups_of_several_labels_stay_whole_and_each_class_stands_in_each_part(groups, seed):
    groups = groups + [[k] for k in (0, 1, 2) for _ in range(3)]
    group, label = (np.array(x) for x in zip(*[(g, k) for g, labels in enumerate(groups) for k in labels], strict=True))
    part = split_groups(group, label, FRACTIONS, seed=seed)
    for g in range(len(groups)):
        assert len(set(part[group == g])) == 1
    for k in (0, 1, 2):
        assert set(part[label == k]) == {0, 1, 2}


def test_too_few_groups_of_a_class_stop_with_its_name():
    group, label = np.array([0, 1, 2, 3, 3, 4]), np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(InputError, match=r"'tumour' has 2 independent"):
        split_groups(group, label, FRACTIONS, seed=0, classes=("none", "tumour"))
    with pytest.raises(InputError, match=r"class '1' has 2 .*all of 3 splits"):
        split_groups(group, label, FRACTIONS, seed=0)


@pytest.mark.parametrize("bad", [(0.5, 0.0, 0.5), (1.2, -0.2, 0.2), (0, 0, 0)])
def test_fractions_must_be_above_zero(bad):
    with pytest.raises(InputError, match="fractions"):
        split_groups(np.arange(9), np.zeros(9, int), bad, seed=0)


@settings(max_examples=100, deadline=None)
@given(grouped(least=4), st.sets(st.sampled_from(["val", "test"])), st.integers(0, 99))
def test_given_splits_are_kept_and_missing_ones_are_carved_from_train(cases, given_splits, seed):
    group, label = cases
    # The given validation and test splits are further groups.
    extra = [s for s in ("val", "test") if s in given_splits for _ in range(2)]
    given_column = np.array(["train"] * len(group) + extra)
    group = np.concatenate([group, group.max() + 1 + np.arange(len(extra))])
    label = np.concatenate([label, np.arange(len(extra)) % 2])
    index = make_splits(given_column, group, label, fractions=FRACTIONS, seed=seed, classes=("a", "b"))
    assert sorted(np.concatenate(list(index.values())).tolist()) == list(range(len(group)))
    for split in given_splits:
        np.testing.assert_array_equal(index[split], np.flatnonzero(given_column == split))
    for split in {"val", "test"} - given_splits:
        assert (given_column[index[split]] == "train").all()
        assert set(label[index[split]]) == {0, 1}
    places = [set(group[rows]) for rows in index.values()]
    assert not places[0] & places[1]
    assert not places[0] & places[2]
    assert not places[1] & places[2]


def test_with_all_splits_given_nothing_moves():
    given_column = np.array(["test", "train", "val", "train"])
    index = make_splits(given_column, np.arange(4), np.zeros(4, int), fractions=FRACTIONS, seed=0, classes=())
    assert {s: rows.tolist() for s, rows in index.items()} == {"train": [1, 3], "val": [2], "test": [0]}


def test_cases_without_a_split_fill_up_what_is_missing():
    given_column = np.array(["test"] * 4 + ["all"] * 40)
    index = make_splits(given_column, np.arange(44), np.arange(44) % 2, fractions=FRACTIONS, seed=0, classes=())
    assert index["test"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(len(index["val"]) / 40, 0.15 / 0.8, atol=2 / 40)
    both = np.array(["test"] * 4 + ["val"] * 4 + ["all"] * 20)
    index = make_splits(both, np.arange(28), np.arange(28) % 2, fractions=FRACTIONS, seed=0, classes=())
    assert [len(index[s]) for s in ("train", "val", "test")] == [20, 4, 4]


def test_no_training_cases_stop():
    with pytest.raises(InputError, match="no training split, only test, val"):
        make_splits(np.array(["val", "test"]), np.arange(2), np.zeros(2), fractions=FRACTIONS, seed=0, classes=())


LEAKS = {"train": np.array([0, 1, 2, 3]), "val": np.array([4, 5, 6]), "test": np.array([7, 8])}
#                    train                  val              test
CONTENT = np.array(["a", "b", "c", "d"] + ["b", "e", "f"] + ["c", "f"])


def test_identical_content_is_dropped_from_the_training_side_and_counted():
    kept, counts = clear_leaks(LEAKS, content=CONTENT, patient=np.full(9, ""), on_leak="stop")
    assert {s: rows.tolist() for s, rows in kept.items()} == {"train": [0, 3], "val": [4, 5], "test": [7, 8]}
    assert counts == {"identical content dropped from train": 2, "identical content dropped from val": 1}
    assert len(LEAKS["train"]) == 4  # the argument is not changed


def test_content_that_only_validation_lost_may_stay_in_training():
    # "f" left validation because test holds it; training must lose it all the same.
    content = np.array(["f", "b", "c", "d", "x", "e", "f", "y", "f"])
    kept, counts = clear_leaks(LEAKS, content=content, patient=np.full(9, ""), on_leak="stop")
    assert kept["train"].tolist() == [1, 2, 3]
    assert kept["val"].tolist() == [4, 5]
    assert counts["identical content dropped from train"] == 1


def test_clean_splits_pass_as_they_are():
    kept, counts = clear_leaks(LEAKS, content=np.array(list("abcdefghi")), patient=np.array(list("pppqrrrss")), on_leak="stop")
    assert counts == {}
    assert all(kept[s] is LEAKS[s] for s in LEAKS)


def test_a_patient_in_two_splits_stops_unless_reported():
    patient = np.array(["p", "q", "", "r", "p", "", "s", "q", "s"])
    content = np.array(list("abcdefghi"))
    with pytest.raises(InputError, match=r"1 patient.*train and val") as caught:
        clear_leaks(LEAKS, content=content, patient=patient, on_leak="stop")
    assert "--data.on_leak report" in str(caught.value)
    kept, counts = clear_leaks(LEAKS, content=content, patient=patient, on_leak="report")
    assert counts == {
        "patients in both train and val": 1,
        "patients in both train and test": 1,
        "patients in both val and test": 1,
    }
    assert all(len(kept[s]) == len(LEAKS[s]) for s in LEAKS)


def closure(patient, content, near):
    """Breadth-first search over the definition of what must stay together."""
    n, found = len(patient), np.full(len(patient), -1)
    for start in range(n):
        if found[start] >= 0:
            continue
        found[start], todo = start, deque([start])
        while todo:
            i = todo.popleft()
            for j in range(n):
                same = (patient[i] and patient[i] == patient[j]) or (content[i] and content[i] == content[j])
                if found[j] < 0 and (same or near[i] == near[j]):
                    found[j] = start
                    todo.append(j)
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "", "p", "q", "r", "s"]), st.sampled_from(list("abcdefgh")), st.integers(0, 9)),
        min_size=1,
        max_size=20,
    )
)
def test_groups_are_the_transitive_closure(rows):
    patient, content, near = (np.array(column) for column in zip(*rows, strict=True))
    expected = closure(patient, content, near)
    inverse = np.unique(expected, return_inverse=True)[1]
    got = group_cases(patient, content, near)
    np.testing.assert_array_equal(got, inverse)  # the same parts, numbered by first appearance
    assert got.shape == (len(rows),)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 15), st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_components_number_by_first_appearance(n, edges):
    edges = [(i % n, j % n) for i, j in edges]
    label = list(range(n))
    for _ in range(n):
        for i, j in edges:
            label[i] = label[j] = min(label[i], label[j])
    order = {value: k for k, value in enumerate(dict.fromkeys(label))}
    i, j = (np.array([e[side] for e in edges], int) for side in (0, 1))
    assert components(n, i, j).tolist() == [order[value] for value in label]


# Several labels ------------------------------------------------------------------------------------------------------------

LABELS = st.lists(st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=4, max_size=4), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(LABELS)
def test_the_rarest_positive_class_of_each_case(rows):
    label = np.array(rows, np.int8)
    counts = [sum(row[k] == 1 for row in rows) for k in range(4)]
    for row, found in zip(rows, rarest_class(label), strict=True):
        positive = [k for k in range(4) if row[k] == 1]
        if positive:
            assert found in positive
            assert counts[found] == min(counts[k] for k in positive)
        else:
            assert found == (4 if 0 in row else -1)


@settings(max_examples=150, deadline=None)
@given(LABELS, st.integers(1, 3), st.integers(0, 99))
def test_classes_too_rare_for_every_part_are_no_error_where_they_need_not_be_there(rows, size, seed):
    label = rarest_class(np.array(rows, np.int8))
    group = np.arange(len(rows)) // size
    part = split_groups(group, label, FRACTIONS, seed=seed, strict=False)
    for g in np.unique(group):
        assert len(set(part[group == g])) == 1
    np.testing.assert_array_equal(part, split_groups(group, label, FRACTIONS, seed=seed, strict=False))
    for value in np.unique(label[label >= 0]):
        if len(np.unique(group[label == value])) >= 3 and size == 1:
            assert set(part[label == value]) == {0, 1, 2}


def test_many_rare_classes_do_not_all_go_to_training():
    label = np.arange(200)  # every case a class of its own
    part = split_groups(np.arange(200), label, FRACTIONS, seed=0, strict=False)
    np.testing.assert_allclose(np.bincount(part) / 200, FRACTIONS, atol=1 / 200)
    with pytest.raises(InputError, match="too few"):
        split_groups(np.arange(200), label, FRACTIONS, seed=0)


def test_splits_and_folds_of_several_labels():
    rng = np.random.default_rng(0)
    label = rarest_class((rng.random((90, 6)) < [0.5, 0.3, 0.2, 0.1, 0.03, 0.01]).astype(np.int8))
    group, every = np.arange(90) // 2, np.full(90, "all")
    index = make_splits(every, group, label, fractions=FRACTIONS, seed=0, classes=(), strict=False)
    assert sorted(np.concatenate(list(index.values()))) == list(range(90))
    folds = make_folds(every, group, label, folds=5, val=0.2, seed=0, classes=(), strict=False)
    assert sorted(np.concatenate([fold["cv"] for fold in folds])) == list(range(90))
    for fold in folds:
        assert min(map(len, fold.values())) > 0
        assert not set(group[fold["cv"]]) & set(group[np.concatenate([fold["train"], fold["val"]])])
