import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medjax.cases import Cases
from medjax.core import Examples
from medjax.data.pipeline import BLOCK, Prefetch, drawn_shapes, pipeline


def make_cases(n, *, label=None, group=None):
    columns = {
        "id": np.array([f"c{i}" for i in range(n)]),
        "index": np.arange(n),
        "image": np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2),
        "label": np.zeros(n, int) if label is None else np.asarray(label),
        "group": np.arange(n) if group is None else np.asarray(group),
    }
    return Cases(columns)


@pytest.mark.parametrize("sampling", ["cases", "groups", "classes"])
def test_a_batch_is_a_function_of_seed_and_step(sampling):
    cases = make_cases(23, label=np.arange(23) % 2, group=np.arange(23) // 3)
    batch = pipeline(cases, 8, seed=3, sampling=sampling)
    forth = [batch(step) for step in range(30)]
    for step in (29, 0, 17, 3, 17, 28, 1):
        other = pipeline(cases, 8, seed=3, sampling=sampling)(step)
        for again in (batch(step), other):
            assert again.keys() == forth[step].keys()
            for name, value in again.items():
                np.testing.assert_array_equal(value, forth[step][name])
    seeds = pipeline(cases, 8, seed=4, sampling=sampling)
    assert any((seeds(step)["index"] != forth[step]["index"]).any() for step in range(3))


def test_a_batch_has_the_numbers_of_its_cases_and_a_mask():
    cases = make_cases(10).take(np.array([8, 2, 5]))
    batch = pipeline(cases, 3, seed=0)(0)
    assert set(batch) == {"index", "image", "label", "group", "mask"}  # text stays on the host
    assert sorted(batch["index"]) == [2, 5, 8]
    np.testing.assert_array_equal(batch["image"], make_cases(10).columns["image"][batch["index"]])
    assert batch["image"].dtype == np.uint8
    assert batch["mask"].dtype == bool
    assert batch["mask"].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 5))
def test_an_epoch_visits_each_case_once_even_across_batches(n, batch_size, seed):
    batch = pipeline(make_cases(n), batch_size, seed=seed)
    epochs = 3
    steps = -(-epochs * n // batch_size)
    order = np.concatenate([batch(step)["index"] for step in range(steps)])[: epochs * n].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(n), (epochs, 1)))


def test_epochs_are_shuffled_anew():
    batch = pipeline(make_cases(50), 50, seed=0)
    orders = {batch(step)["index"].tobytes() for step in range(5)}
    assert len(orders) == 5


def by_size(sizes):
    """Examples of one column "row" as long as the longest case of a batch needs."""
    sizes = np.asarray(sizes)

    def cut(cases, rng):
        return {"row": np.zeros((len(cases), sizes[cases.index].max()))}

    return Examples(cut, None, None, lambda cases: sizes[cases.index])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([4, 8, 16]), min_size=1, max_size=90), st.integers(1, 9), st.integers(0, 3))
def test_batches_of_about_one_length_visit_each_case_as_often(sizes, batch_size, seed):
    examples, cases = by_size(sizes), make_cases(len(sizes))
    batch = pipeline(cases, batch_size, seed=seed, examples=examples)
    made = [batch(step) for step in range(2 * BLOCK)]
    plain = [pipeline(cases, batch_size, seed=seed)(step)["index"] for step in range(2 * BLOCK)]
    for block in (slice(0, BLOCK), slice(BLOCK, None)):
        drawn = np.concatenate([of["index"] for of in made[block]])
        np.testing.assert_array_equal(np.sort(drawn), np.sort(np.concatenate(plain[block])))
        lengths = np.asarray(sizes)[drawn].reshape(BLOCK, batch_size)
        # In a block at most one batch stands between two lengths.
        assert (lengths.min(1) < lengths.max(1)).sum() <= len(set(sizes)) - 1
    assert all(of["row"].shape[1] == np.asarray(sizes)[of["index"]].max() for of in made)
    other = pipeline(cases, batch_size, seed=seed, examples=examples)
    for step in (2 * BLOCK - 1, 0, BLOCK, 5):
        np.testing.assert_array_equal(other(step)["index"], made[step]["index"])
    shapes = [of["row"].shape[1] for of in drawn_shapes(cases, batch_size, examples)]
    assert shapes == sorted(set(sizes))
    assert {of["row"].shape[1] for of in made} <= set(shapes)


def test_cases_are_shuffled_evenly():
    batch = pipeline(make_cases(5), 5, seed=1)
    first = np.array([batch(step)["index"][0] for step in range(2000)])
    assert stats.chisquare(np.bincount(first, minlength=5)).pvalue > 1e-3


def test_groups_weigh_the_same_and_classes_keep_their_share():
    # Class 0: groups of 1, 2 and 9 cases; class 1: of 1 and 5, one of which is shared with class 0.
    group = np.array([0] + [1] * 2 + [2] * 9 + [3] + [4] * 4 + [2])
    label = np.array([0] * 12 + [1] * 6)
    expected = np.zeros(18)
    for k, groups in ((0, (0, 1, 2)), (1, (2, 3, 4))):
        for g in groups:
            mine = (label == k) & (group == g)
            expected[mine] = np.mean(label == k) / len(groups) / mine.sum()
    np.testing.assert_allclose(expected.sum(), 1)
    batch = pipeline(make_cases(18, label=label, group=group), 500, seed=2, sampling="groups")
    drawn = np.concatenate([batch(step)["index"] for step in range(60)])
    counts = np.bincount(drawn, minlength=18)
    assert stats.chisquare(counts, expected * len(drawn)).pvalue > 1e-3
    assert stats.chisquare(counts, np.full(18, len(drawn) / 18)).pvalue < 1e-9  # and the test can tell
    share = np.mean(label[drawn] == 0)
    assert abs(share - 12 / 18) < 4 * np.sqrt(12 / 18 * 6 / 18 / len(drawn))


def test_prefetch_gives_the_steps_in_order_and_ends():
    made = []
    with Prefetch(lambda step: made.append(step) or {"x": step}, lambda batch: batch["x"] * 10, 4, 9) as feed:
        assert list(feed) == [40, 50, 60, 70, 80]
        assert list(feed) == []  # and stays at its end
        with pytest.raises(StopIteration):
            feed.next()
    assert made == [4, 5, 6, 7, 8]


def test_prefetch_of_no_steps_ends_at_once():
    with Prefetch(lambda step: {}, dict, 5, 5) as feed:
        assert list(feed) == []


def test_prefetch_works_ahead_but_only_so_far():
    made = []
    with Prefetch(lambda step: made.append(step) or {}, dict, 0, 1000, depth=3) as feed:
        feed.next()
        end = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)
        assert made == [0, 1, 2, 3, 4]  # one taken, three waiting, one in hand


@pytest.mark.parametrize("where", ["make", "put"])
def test_prefetch_raises_the_workers_error_where_its_batch_is_due(where):
    def broken(step):
        if step == 2:
            raise OSError("disk gone")
        return step

    make, put = (broken, int) if where == "make" else (int, broken)
    with Prefetch(make, put, 0, 5) as feed:
        assert [feed.next(), feed.next()] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="disk gone"):
                feed.next()


def test_prefetch_closes_promptly_with_batches_waiting():
    before = threading.active_count()
    with Prefetch(lambda step: {}, dict, 0, 10**9) as feed:
        assert len(list(itertools.islice(feed, 7))) == 7
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert threading.active_count() == before


def test_prefetch_closes_when_the_consumer_fails():
    before = threading.active_count()
    with pytest.raises(KeyError), Prefetch(lambda step: {}, dict, 0, 10**9) as feed:
        feed.next()["image"]
    assert threading.active_count() == before


def test_prefetch_counts_the_wait():
    def slow(step):
        time.sleep(0.1)
        return {}

    with Prefetch(slow, dict, 0, 3) as feed:
        list(feed)
    assert 0.2 < feed.waited < 5
