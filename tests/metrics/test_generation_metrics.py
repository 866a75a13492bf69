"""Measures of generated images against SciPy, scikit-learn and formulas written out pair by pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from medjax.metrics.generation import covered, frechet_distance, inception_score, kernel_distance, nearest

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(60, 7)), RNG.normal(0.3, 1.4, size=(45, 7)) @ RNG.normal(size=(7, 7))


def test_frechet_distance_is_that_of_scipys_matrix_root():
    of_a, of_b = np.cov(A, rowvar=False), np.cov(B, rowvar=False)
    wanted = np.sum((A.mean(0) - B.mean(0)) ** 2) + np.trace(of_a + of_b - 2 * linalg.sqrtm(of_a @ of_b).real)
    assert frechet_distance(A, B) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(A, A) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_on_a_line():
    """Between two normal distributions it is (m - n)^2 + (s - t)^2: Dowson & Landau, 1982."""
    a, b = A[:, :1], 3 * A[:, :1] + 2
    s = a.std(ddof=1)
    assert frechet_distance(a, b) == pytest.approx((2 * a.mean() + 2) ** 2 + (2 * s) ** 2)


def test_frechet_distance_with_fewer_images_than_features():
    few = RNG.normal(size=(5, 9))
    of_a, of_b = np.cov(few, rowvar=False), np.cov(few[::-1] * 2, rowvar=False)
    root = linalg.sqrtm(of_a @ of_b + 1e-13 * np.eye(9)).real
    wanted = np.sum(few.mean(0) ** 2) + np.trace(of_a + of_b - 2 * root)
    assert frechet_distance(few, few * 2) == pytest.approx(wanted, rel=1e-4)
    assert np.isnan(frechet_distance(few[:1], few))


def test_kernel_distance_is_the_unbiased_sum_over_pairs():
    kernel = {"degree": 3, "gamma": 1 / 7, "coef0": 1}
    within = [polynomial_kernel(x, x, **kernel) for x in (A, B)]
    own = [np.mean([k[i, j] for i in range(len(k)) for j in range(len(k)) if i != j]) for k in within]
    wanted = sum(own) - 2 * polynomial_kernel(A, B, **kernel).mean()
    assert kernel_distance(A, B) == pytest.approx(wanted)
    assert kernel_distance(A, B, subsets=400, size=20) == pytest.approx(wanted, rel=0.15)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    values = [kernel_distance(*np.random.default_rng(k).normal(size=(2, 30, 4))) for k in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_inception_score_from_one_to_the_number_of_classes():
    assert inception_score(np.eye(4)[[0, 1, 2, 3] * 3]) == pytest.approx(4)
    assert inception_score(np.eye(4)[[2] * 5]) == pytest.approx(1)
    p = RNG.dirichlet(np.ones(3), 20)
    mean = p.mean(0)
    divergence = [sum(q * np.log(q / m) for q, m in zip(row, mean)) for row in p]
    assert inception_score(p) == pytest.approx(np.exp(np.mean(divergence)))
    # It is the exponential of entropy of the mean less mean entropy.
    entropy = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum(1).mean()
    assert np.log(inception_score(p)) == pytest.approx(entropy)


@pytest.mark.parametrize("k", [1, 3])
def test_manifolds_are_scikit_learns_balls(k):
    radius = NearestNeighbors(n_neighbors=k + 1).fit(B).kneighbors(B)[0][:, k]
    points = 3 * A
    wanted = (euclidean_distances(points, B) <= radius).any(1)
    assert 0 < wanted.sum() < len(wanted)
    np.testing.assert_array_equal(covered(points, B, k=k), wanted)


def test_manifolds_tell_quality_from_variety():
    real = RNG.normal(size=(200, 2))
    narrow = 0.1 * RNG.normal(size=(200, 2))  # good and all alike
    assert covered(narrow, real).mean() == 1
    assert covered(real, narrow).mean() < 0.2
    assert not covered(real + 50, real).any()
    assert not covered(real, real[:3]).any()


def test_the_nearest_is_scikit_learns_and_a_copy_of_ones_own_group_does_not_count():
    distance, place = nearest(A, B)
    wanted, at = NearestNeighbors(n_neighbors=1).fit(B).kneighbors(A)
    np.testing.assert_allclose(distance, wanted[:, 0])
    np.testing.assert_array_equal(place, at[:, 0])
    twice, group = np.concatenate([A, A]), np.tile(np.arange(60), 2)
    assert nearest(twice, twice)[0].max() < 1e-6
    apart, others = nearest(twice, twice, group=group, of=group)
    rest = euclidean_distances(A) + np.diag(np.full(60, np.inf))
    np.testing.assert_allclose(apart, np.tile(rest.min(1), 2))
    assert (group[others] != group).all()
    assert np.isinf(nearest(A[:1], A[:1], group=[1], of=[1])[0]).all()


@given(st.integers(0, 1000), st.floats(0.1, 10), st.integers(2, 6))
def test_distances_are_symmetric_and_do_not_hang_on_order(seed, scale, features):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(12, features)), scale * rng.normal(size=(15, features))
    turned = rng.permutation(12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a[turned]), rel=1e-6, abs=1e-9)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a[turned]), rel=1e-6, abs=1e-9)
    # A rotation changes neither; a scale changes the Frechet distance by its square.
    spin = np.linalg.qr(rng.normal(size=(features, features)))[0]
    assert frechet_distance(a @ spin, b @ spin) == pytest.approx(frechet_distance(a, b), rel=1e-6, abs=1e-9)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * frechet_distance(a, b), rel=1e-6, abs=1e-9)
