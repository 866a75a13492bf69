"""Masks against fastMRI's own to the bit, transforms against their definitions, coils that add up."""

import numpy as np
import pytest

from medjax.errors import InputError
from medjax.physics import kspace

NAME = "file1000267.h5"  # of fastMRI's knees; its characters are the seed of its mask
SEEDS = {368: tuple(map(ord, NAME)), 64: 3, 45: 7}
CENTRE = {4: 0.08, 8: 0.04}
# What fastmri 0.3.0 gives (create_mask_for_mask_type), {(kind, acceleration, columns): bits}.
MASKS = {
    ("random", 4, 368): "20002040002000504202022a2148002800166300203fffffff4102080010410026400244000020a0058088014030",
    ("random", 4, 64): "02a08103f0000400",
    ("random", 4, 45): "810417c00000",
    ("random", 8, 368): "000000000020004040000220214800000012220000007fff01000208001000000400000400000020048080000000",
    ("random", 8, 64): "00a08001c0000000",
    ("random", 8, 45): "810413000000",
    ("equispaced", 4, 368): "4444444444444444444444444444444444444444447ffffffe444444444444444444444444444444444444444444",
    ("equispaced", 4, 64): "22222223e2222222",
    ("equispaced", 4, 45): "111117911110",
    ("equispaced", 8, 368): "040404040404040404040404040404040404040404047fff04040404040404040404040404040404040404040404",
    ("equispaced", 8, 64): "20202021e0202020",
    ("equispaced", 8, 45): "010103010100",
    (
        "equispaced_fraction",
        4,
        368,
    ): "2104208420842084108410841082108210421042107ffffffe420841084108210821082104210421042084208410",
    ("equispaced_fraction", 4, 64): "21042107e0842084",
    ("equispaced_fraction", 4, 45): "082107908208",
    (
        "equispaced_fraction",
        8,
        368,
    ): "04008008010010020040040080100100200200400800ffff01002004004008008010020020040080080100100200",
    ("equispaced_fraction", 8, 64): "00200201e0010010",
    ("equispaced_fraction", 8, 45): "080083080080",
    ("magic", 4, 368): "1111111111111111111111111111111111111111113fffffff111111111111111111111111111111111111111111",
    ("magic", 4, 64): "11111113f1111111",
    ("magic", 4, 45): "111117911110",
    ("magic", 8, 368): "101010101010101010101010101010101010101010107fff01010101010101010101010101010101010101010101",
    ("magic", 8, 64): "10101011d0101010",
    ("magic", 8, 45): "010103010100",
    ("magic_fraction", 4, 368): "0410410410410410410410410410410410410410413ffffffe104104104104104104104104104104104104104104",
    ("magic_fraction", 4, 64): "10410413f0410410",
    ("magic_fraction", 4, 45): "104107904100",
    ("magic_fraction", 8, 368): "001001001001001001001001001001001001001001007fff00100100100100100100100100100100100100100100",
    ("magic_fraction", 8, 64): "02001001c0100080",
    ("magic_fraction", 8, 45): "080103100200",
}


@pytest.mark.parametrize(("kind", "acceleration", "columns"), MASKS)
def test_masks_are_fastmris_to_the_bit(kind, acceleration, columns):
    found = kspace.column_mask(kind, columns, acceleration, CENTRE[acceleration], SEEDS[columns])
    assert np.packbits(found).tobytes().hex() == MASKS[kind, acceleration, columns]


def test_masks_that_sample_nothing_or_are_unknown_are_refused():
    with pytest.raises(InputError, match="samples nothing"):
        kspace.column_mask("random", 3, 1000, 0.0, 0)
    with pytest.raises(InputError, match="no mask"):
        kspace.column_mask("spiral", 64, 4, 0.08, 0)
    with pytest.raises(InputError, match="no such mask"):
        kspace.column_mask("random", 64, 0, 0.08, 0)
    with pytest.raises(InputError, match="centre"):
        kspace.poisson_disc((32, 32), 8, 0, centre=30)


@pytest.mark.parametrize("acceleration", [3, 8])
def test_poisson_disc_points_keep_their_distance_and_meet_the_acceleration(acceleration):
    shape, centre = (64, 48), 8
    mask = kspace.poisson_disc(shape, acceleration, 5, centre=centre)
    assert mask.size / mask.sum() == pytest.approx(acceleration, rel=0.06)
    assert mask[28:36, 20:28].all()
    np.testing.assert_array_equal(mask, kspace.poisson_disc(shape, acceleration, 5, centre=centre))
    assert (mask != kspace.poisson_disc(shape, acceleration, 6, centre=centre)).any()
    # Sparser outside than near the middle, and no two points closer than outer ones elsewhere.
    y, x = np.nonzero(mask)
    far = np.hypot((y - 32) / 32, (x - 24) / 24)
    outer = np.stack([y, x], 1)[far > 0.9]
    apart = np.linalg.norm(outer[:, None] - outer[None], axis=-1) + 1e9 * np.eye(len(outer))
    assert apart.min() > 1.0
    inner_share = mask[20:44, 14:34].mean()
    edge = np.ones(shape, bool)
    edge[8:-8, 6:-6] = False
    assert mask[edge].mean() < inner_share


def test_transforms_are_centred_orthonormal_and_inverse():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 5)) + 1j * rng.normal(size=(2, 6, 5))
    spectrum = kspace.to_kspace(image)
    y, x = np.arange(6) - 3, np.arange(5) - 2
    rows, columns = (np.exp(-2j * np.pi * np.outer(k, k) / len(k)) / np.sqrt(len(k)) for k in (y, x))
    np.testing.assert_allclose(spectrum, rows @ image @ columns.T, atol=1e-12)
    np.testing.assert_allclose(kspace.to_image(spectrum), image, atol=1e-12)
    import jax.numpy as jnp

    np.testing.assert_allclose(kspace.to_kspace(jnp.array(image, jnp.complex64)), spectrum, atol=1e-5)


def test_coils_add_up_and_are_told_from_the_middle_of_kspace():
    maps = kspace.birdcage(6, (48, 40))
    np.testing.assert_allclose(kspace.root_sum_of_squares(maps), 1, atol=1e-6)
    y, x = np.mgrid[:48, :40]
    image = ((y - 24) ** 2 / 20**2 + (x - 20) ** 2 / 16**2 < 1) * np.exp(1j * 0.3)
    coils = kspace.to_kspace(maps * image)
    mask = kspace.column_mask("equispaced", 40, 4, 0.3, 0)
    found = kspace.estimate_sensitivities(coils * mask, mask)
    inside = ((y - 24) ** 2 / 18**2 + (x - 20) ** 2 / 14**2) < 1
    combined = (found.conj() * maps).sum(0)[inside]  # of one phase where both are alike
    assert np.abs(np.abs(combined) - 1).max() < 0.05
    with pytest.raises(InputError, match="middle column"):
        kspace.estimate_sensitivities(coils, np.zeros(40, bool))


def test_phase_is_smooth_and_bounded():
    phase = kspace.smooth_phase(np.random.default_rng(1), (32, 24), strength=2.0)
    assert np.abs(phase).max() == pytest.approx(2.0, rel=1e-5)
    assert max(np.abs(np.diff(phase, axis=a)).max() for a in (0, 1)) < 1.0
