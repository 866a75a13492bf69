"""Where a reconstruction strays from what was measured, and where it is unsure: maps of a few slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Batch, Figure, State
from medjax.metrics.restoration import Scale
from medjax.tasks.restoration_figures import DIFFERENCE, _grey, _shown

if TYPE_CHECKING:
    from medjax.tasks.reconstruct import Acquisition

STRONGER = 10  # than the image residuals and spreads are shown


def uncertainty(
    predict: Callable[[Batch], jax.Array], batch: Batch, mirror: Callable[[Batch, tuple[int, ...]], dict[str, Any]]
) -> jax.Array:
    """The standard deviation [n, h, w, 1] of what a network says of a scan and its three mirror images, each turned back.

    A network that knew the answer would say the same; where it does not, it makes up part of what it shows (test-time
    augmentation: Wang et al., Neurocomputing 338, 2019).
    """
    seen = []
    for axes in ((), (-2,), (-1,), (-2, -1)):
        image = predict(mirror(batch, axes))
        seen.append(jnp.flip(image, [axis - 1 for axis in axes]))  # images end with a channel
    return jnp.stack(seen).std(0)


def explain(
    state: State,
    rows: Rows,
    cases: Cases,
    *,
    how: Acquisition,
    image: Callable[[State, Batch], jax.Array],
    window: Scale,
) -> dict[str, Figure]:
    """Image, error, residual and uncertainty of the best, median and worst case by PSNR, their middle slices.

    Args:
      state: of the network, without averages.
      rows, cases: what was measured.
      how: the cases were measured.
      image: (state, batch) -> the plain network's image [n, H, W, channels].
      window: between which values images are shown.
    """
    psnr = np.asarray(rows["psnr"], float)
    known = np.flatnonzero(np.isfinite(psnr))
    if not len(known):
        return {}
    order = known[np.argsort(psnr[known], kind="stable")]
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}

    @jax.jit
    def look(batch: Batch) -> tuple[jax.Array, jax.Array]:
        off = jnp.sqrt(jnp.square(how.scanner.step(image(state, batch), how.given(batch))).sum(-1))
        return off, uncertainty(lambda b: how.shown(image(state, b), b), batch, how.mirror)

    lines = []
    for label, i in dict(list(chosen.items())[: len(order)]).items():
        case = cases.take(np.array([i]))
        z = case["truth"].shapes[0][0] // 2
        batch = {name: jnp.asarray(np.asarray(case[name][0][z])[None]) for name in how.columns}
        batch |= {"scale": jnp.asarray(case["scale"]), "label": jnp.asarray(case["label"])}
        off, spread = look(batch)
        unit = float(case["scale"][0, 1])
        truth, found = np.asarray(case["truth"][0][z, ..., 0]), np.asarray(rows["image"][int(i)])[z, ..., 0]
        low, high = (0.0, float(truth.max())) if window.low == window.high else window
        shown = [
            _grey(found, (low, high)),
            _grey(np.abs(found - truth), (0.0, (high - low) / DIFFERENCE)),
            _grey(np.asarray(off[0]) * unit, (0.0, (high - low) / STRONGER)),
            _grey(np.asarray(spread[0, ..., 0]) * unit, (0.0, (high - low) / STRONGER)),
        ]
        titles = [
            f"network · {psnr[i]:.1f} dB",
            f"its error, x{DIFFERENCE}",
            f"residual, x{STRONGER}",
            f"uncertainty, x{STRONGER}",
        ]
        lines.append({"label": label, "images": [_shown(one) for one in shown], "titles": titles})
    text = (
        "Residual: where the image contradicts what was measured, |B (A x - y)|. Uncertainty: the standard "
        " deviation of the network's answers to the scan and to its mirror images. Neither sees the truth; a structure "
        "in a bright place of either is not to be trusted. The best, median and worst case by PSNR, middle slices."
    )
    return {"maps": Figure("grid", "Residual and uncertainty", text, {"rows": lines})}
