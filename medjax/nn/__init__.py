"""Layers that models are built from; the ones here know the engine's context, flax's own do not."""

from medjax.nn.attention import AttentionPool
from medjax.nn.channelwise import GroupedLSTM
from medjax.nn.conv import Conv, ConvTranspose
from medjax.nn.dense import Dense
from medjax.nn.dropout import Dropout
from medjax.nn.grud import GRUD
from medjax.nn.norm import BatchNorm, InstanceNorm
from medjax.nn.pool import max_pool
from medjax.nn.recurrent import GRU, LSTM, SimpleRNN
from medjax.nn.scan import MinGRU
from medjax.nn.spectral import SpectralConv
from medjax.nn.upsampling import Upsample, upsample

__all__ = [
    "GRU",
    "GRUD",
    "LSTM",
    "AttentionPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "GroupedLSTM",
    "InstanceNorm",
    "MinGRU",
    "SimpleRNN",
    "SpectralConv",
    "Upsample",
    "max_pool",
    "upsample",
]
