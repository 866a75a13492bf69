"""Layers that models are built from; the ones here know the engine's context, flax's own do not."""

from medjax.nn.conv import Conv, ConvTranspose
from medjax.nn.dense import Dense
from medjax.nn.dropout import Dropout
from medjax.nn.norm import BatchNorm
from medjax.nn.pool import max_pool
from medjax.nn.recurrent import GRU, LSTM, SimpleRNN

__all__ = ["GRU", "LSTM", "BatchNorm", "Conv", "ConvTranspose", "Dense", "Dropout", "SimpleRNN", "max_pool"]
