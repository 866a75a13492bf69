"""Where a reconstruction strays from what was measured, and where it is unsure: maps of a few slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Batch, Figure, State
from medjax.physics import kspace as mr
from medjax.tasks.restoration_figures import DIFFERENCE, _grey, _shown

STRONGER = 10  # than the image residuals and spreads are shown


def mirrored(kspace: Any, axis: int) -> Any:
    """k-space [..., H, W], or a mask of it, of the image mirrored along an axis, -2 or -1, to the phase of one pixel.

    Frequency k becomes -k; of an even number of them the first has itself for a partner.
    """
    xp = np if isinstance(kspace, np.ndarray) else jnp
    turned = xp.flip(kspace, axis)
    return turned if kspace.shape[axis] % 2 else xp.roll(turned, 1, axis)


def _mirror(batch: dict[str, Any], axes: tuple[int, ...]) -> dict[str, Any]:
    new = dict(batch)
    image = mr.to_image(mr.as_complex(batch["kspace"]))
    new["kspace"] = mr.as_pair(mr.to_kspace(jnp.flip(image, axes) if axes else image))
    for axis in axes:
        new["sampled"] = mirrored(new["sampled"], axis)
        if "maps" in batch:
            new["maps"] = jnp.flip(new["maps"], axis - 1)
    return new


def uncertainty(predict: Callable[[Batch], jax.Array], batch: Batch) -> jax.Array:
    """The standard deviation [n, h, w, 1] of what a network says of a scan and its three mirror images, each turned back.

    A network that knew the answer would say the same; where it does not, it makes up part of what it shows (test-time
    augmentation: Wang et al., Neurocomputing 338, 2019).
    """
    seen = []
    for axes in ((), (-2,), (-1,), (-2, -1)):
        image = predict(_mirror(dict(batch), axes))
        seen.append(jnp.flip(image, [axis - 1 for axis in axes]))  # images end with a channel
    return jnp.stack(seen).std(0)


def explain(
    state: State,
    rows: Rows,
    cases: Cases,
    *,
    predict: Callable[[State, Batch], dict[str, jax.Array]],
    pair: Callable[[State, Batch], jax.Array],
    given: Callable[[Batch], dict[str, jax.Array]],
    columns: tuple[str, ...],
) -> dict[str, Figure]:
    """Image, error, residual and uncertainty of the best, median and worst case by PSNR, their middle slices.

    Args:
      state: of the network, without averages.
      rows, cases: what was measured.
      predict: the task's; its "image" is the plain network's.
      pair: (state, batch) -> the plain network's complex image [n, H, W, 2].
      given: batch -> what networks take.
      columns: that a batch needs.
    """
    psnr = np.asarray(rows["psnr"], float)
    known = np.flatnonzero(np.isfinite(psnr))
    if not len(known):
        return {}
    order = known[np.argsort(psnr[known], kind="stable")]
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}

    @jax.jit
    def look(batch: Batch) -> tuple[jax.Array, jax.Array]:
        x = given(batch)
        off = jnp.abs(mr.misfit(mr.as_complex(pair(state, batch)), x))
        return off, uncertainty(lambda b: predict(state, b)["image"], batch)

    lines = []
    for label, i in dict(list(chosen.items())[: len(order)]).items():
        case = cases.take(np.array([i]))
        z = case["truth"].shapes[0][0] // 2
        batch = {name: jnp.asarray(np.asarray(case[name][0][z])[None]) for name in columns}
        batch |= {"scale": jnp.asarray(case["scale"]), "label": jnp.asarray(case["label"])}
        off, spread = look(batch)
        unit = float(case["scale"][0, 1])
        truth, image = np.asarray(case["truth"][0][z, ..., 0]), np.asarray(rows["image"][int(i)])[z, ..., 0]
        top = float(truth.max())
        shown = [
            _grey(image, (0.0, top)),
            _grey(np.abs(image - truth), (0.0, top / DIFFERENCE)),
            _grey(np.asarray(off[0]) * unit, (0.0, top / STRONGER)),
            _grey(np.asarray(spread[0, ..., 0]) * unit, (0.0, top / STRONGER)),
        ]
        titles = [
            f"network · {psnr[i]:.1f} dB",
            f"its error, x{DIFFERENCE}",
            f"residual, x{STRONGER}",
            f"uncertainty, x{STRONGER}",
        ]
        lines.append({"label": label, "images": [_shown(one) for one in shown], "titles": titles})
    text = (
        "Residual: where the image contradicts the points of k-space that were read, |A^H (A x - y)|. Uncertainty: the "
        "standard deviation of the network's answers to the scan and to its mirror images. Neither sees the truth; a structure "
        "in a bright place of either is not to be trusted. The best, median and worst case by PSNR, middle slices."
    )
    return {"maps": Figure("grid", "Residual and uncertainty", text, {"rows": lines})}
