"""Simulators of how images come about, and operators that reconstructions must agree with. NumPy and jnp, no training."""
