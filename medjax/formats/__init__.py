"""Files <-> NumPy arrays, one module a format. Nothing here knows of training."""
