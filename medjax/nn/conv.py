"""The one door to convolutions: models take them from here, and the choice of formulation per backend stays behind it."""

from flax.linen import Conv, ConvTranspose

__all__ = ["Conv", "ConvTranspose"]
