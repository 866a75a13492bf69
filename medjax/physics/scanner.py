"""What a network that is held to its measurements has to know of how they came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

Scan = Mapping[str, jax.Array]  # arrays [n, ...] that measurements consist of


class Scanner(NamedTuple):
    """A linear acquisition y = A x, with B that takes measurements back to images: the adjoint, or a filtered one.

    Attributes:
      channels: of images: 2 where they are complex, real and imaginary part.
      start: scan -> B y, an image [n, H, W, channels].
      step: (image, scan) -> B (A x - y), likewise: the way that leads off the measurements.
      residual: (image, scan) -> |A x - y| / |y|, [n].
    """

    channels: int
    start: Callable[[Scan], jax.Array]
    step: Callable[[jax.Array, Scan], jax.Array]
    residual: Callable[[jax.Array, Scan], jax.Array]
