"""Detections chosen on the host, picture by picture, as detectors in eager frameworks do it."""

from __future__ import annotations

import numpy as np


def select(
    probability: np.ndarray,
    deltas: np.ndarray,
    anchors: np.ndarray,
    limit: np.ndarray,
    *,
    most: int,
    candidates: int,
    least: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes [most, 4], score [most]) of a picture: the likeliest candidates, greedily suppressed class by class at IoU .5.

    Args:
      probability: [A, K].
      deltas, anchors: [A, 4].
      limit: [4], right and bottom edges twice.
      most, candidates, least: as of `medjax.nn.boxes.select`.
    """
    classes = probability.shape[1]
    flat = probability.reshape(-1)
    k = min(candidates, flat.size)
    at = np.argpartition(-flat, k - 1)[:k]
    at = at[np.argsort(-flat[at], kind="stable")]
    at = at[flat[at] >= least]
    own, change = anchors[at // classes], deltas[at // classes]
    side = own[:, 2:] - own[:, :2]
    middle = (own[:, :2] + own[:, 2:]) / 2 + change[:, :2] * side
    half = np.exp(np.minimum(change[:, 2:], np.log(1000 / 16))) * side / 2
    found = np.clip(np.concatenate([middle - half, middle + half], 1), 0, limit)
    kind, area = at % classes, (found[:, 2:] - found[:, :2]).prod(1)
    alive, kept = np.ones(len(at), bool), []
    for i in range(len(at)):
        if not alive[i]:
            continue
        kept.append(i)
        both = np.minimum(found[i, 2:], found[i + 1 :, 2:]) - np.maximum(found[i, :2], found[i + 1 :, :2])
        both = np.maximum(both, 0).prod(1)
        over = both > 0.5 * (area[i] + area[i + 1 :] - both)
        alive[i + 1 :] &= ~(over & (kind[i + 1 :] == kind[i]))
    made, score = np.zeros((most, 4), np.float32), np.zeros(most, np.float32)
    kept = kept[:most]
    made[: len(kept)], score[: len(kept)] = found[kept], flat[at[kept]]
    return made, score
