"""Data sets prepared once through tensorflow-datasets, without TensorFlow: ArrayRecord shards, read at random."""
