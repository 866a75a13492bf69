"""Convolutions on the CPU through oneDNN, where they can be had: optional, built at first use, lax otherwise.

`supply` finds the library, builds and checks the small compiled part (conv.cc) and decides; `primitive` makes it known to JAX;
`check` is what a fresh build has to pass. Users meet it through `medjax.nn.conv` alone.
"""

from medjax.nn.onednn.supply import Choice, choice, in_force

__all__ = ["Choice", "choice", "in_force"]
