"""Recurrent variational network: one learnt optimiser with a memory, applied again and again (Yiasemis et al., CVPR 2022)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv
from medjax.physics.kspace import SCANNER
from medjax.physics.scanner import Scanner


class ConvGRU(nn.Module):
    """A gated recurrent unit whose products are convolutions (Ballas et al., ICLR 2016, equations 8 to 11).

    Attributes:
      features: channels of the state.
    """

    features: int

    @nn.compact
    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """State h [n, H, W, features], x [n, H, W, C] -> the next state."""
        gates = nn.sigmoid(Conv(2 * self.features, (3, 3), name="gates")(jnp.concatenate([h, x], -1)))
        update, reset = jnp.split(gates, 2, -1)
        new = jnp.tanh(Conv(self.features, (3, 3), name="candidate")(jnp.concatenate([reset * h, x], -1)))
        return (1 - update) * h + update * new


class RecurrentVarNet(nn.Module):
    """The image and the misfit's gradient enter two layers of ConvGRU, whose state says how to move; weights are shared.

    Attributes:
      scanner: A and B, whose B (A x - y) is taken for the gradient.
      features: channels of the states.
      steps: how many times.
    """

    scanner: Scanner = SCANNER
    features: int = 24
    steps: int = 6

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """x a scan of `scanner` -> image [n, H, W, its channels]."""
        image = self.scanner.start(x)
        first = Conv(self.features, (5, 5), name="stem")
        cells = [ConvGRU(self.features, name=f"gru{k}") for k in range(2)]
        last = Conv(self.scanner.channels, (3, 3), kernel_init=nn.initializers.zeros, name="head")
        size = self.param("size", nn.initializers.ones, (self.steps,), jnp.float32)
        states = [jnp.zeros((*image.shape[:-1], self.features), image.dtype)] * 2
        for t in range(self.steps):
            slope = self.scanner.step(image, x)
            y = nn.relu(first(jnp.concatenate([image, slope], -1)))
            for k, cell in enumerate(cells):
                states[k] = y = cell(states[k], y)
            image = image - size[t] * slope + last(y)
        return image
