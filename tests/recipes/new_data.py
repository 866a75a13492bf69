"""A data set of one's own: anything with `len` and `getitem` -> dict is a Source. This one is arrays in memory, no files."""

from typing import Any

import numpy as np


class Ripples:
    """Pictures [32, 32] uint8 of noise (label 0) or of noise with stripes (label 1), three of each patient."""

    def __init__(self, patients: int, *, seed: int = 0):
        rng = np.random.default_rng(seed)
        n = 3 * patients
        self.patient = np.repeat(np.arange(patients), 3)
        self.label = self.patient % 2
        stripes = 40 * np.sin(np.arange(32) + rng.uniform(0, 6, (n, 1)))
        pictures = rng.normal(120, 30, (n, 32, 32)) + self.label[:, None, None] * stripes[:, None]
        self.image = pictures.clip(0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {
            "id": f"ripple{i:03d}",
            "patient": f"p{self.patient[i]}",  # a patient never stands on two sides of a split
            "image": self.image[i],
            "label": int(self.label[i]),  # -1 would mean unknown
        }
