"""The linear layer."""

from typing import Any

import flax.linen as nn

from medjax.nn.conv import promote


class Dense(nn.Dense):
    """`flax.linen.Dense` that computes in the engine's dtype unless `dtype` is given; parameters stay float32.

    flax's own, in a network's head, brings bfloat16 features back to float32.
    """

    promote_dtype: Any = promote
