"""Layers that models are built from; the ones here know the engine's context, flax's own do not."""

from medjax.nn.conv import Conv, ConvTranspose
from medjax.nn.dropout import Dropout
from medjax.nn.norm import BatchNorm

__all__ = ["BatchNorm", "Conv", "ConvTranspose", "Dropout"]
