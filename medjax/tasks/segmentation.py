"""Segment images and volumes: the Task, and defaults for everything else of a Job."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.cases import Cases, Rows, Varying
from medjax.core import About, Augment, Baseline, Batch, Examples, Job, Task
from medjax.data.volumes import IGNORE
from medjax.errors import InputError
from medjax.formats.dicom_seg import write_seg
from medjax.formats.series import slices_of
from medjax.formats.volume import grid_of, write_mask
from medjax.metrics import segmentation as metrics
from medjax.nn import losses
from medjax.tasks import overlays, volumes
from medjax.tasks.supervised import supervised
from medjax.tasks.volumes import Geometry

Intensity = Sequence[tuple[float, float, float, float]]  # (lowest, highest, mean, deviation) of each channel
Loss = Callable[..., jax.Array]


def scaled(image: jax.Array, intensity: Intensity) -> jax.Array:
    """Prepared integers [..., C] as a network takes them: clipped, less the mean, over the deviation. Floats pass as they are.

    Args:
      image: int16 as `volumes.preprocess_volume` leaves it, or float, scaled already.
      intensity: (lowest, highest, mean, deviation) of each channel, in the same units.
    """
    if not jnp.issubdtype(image.dtype, jnp.integer):
        return image.astype(jnp.float32)
    low, high, mean, deviation = np.asarray(intensity, np.float32).T
    return (jnp.clip(image.astype(jnp.float32), low, high) - mean) / deviation


def segmentation(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    intensity: Intensity,
    loss: Loss = losses.dice_cross_entropy,
    mirrors: Sequence[int] = (),
) -> Task:
    """One class out of several at each voxel, by softmax.

    Args:
      model: x [n, *S, C] -> logits [n, *S, K]; in training also a list of them, finest first (deep supervision).
      tx: optimizer.
      intensity: see `scaled`.
      loss: (logits, labels, known=) -> [n], such as `medjax.nn.losses.dice_cross_entropy`.
      mirrors: axes of space, counted from 0, over whose mirror images predictions are averaged.

    Returns:
      Task over batches with `image` [n, *S, C], `labels` uint8 [n, *S] (255 is ignored) and `label` int8 [n, K - 1], -1 for
      classes that a case was not annotated for; rows and outputs are `probability` float32 [n, *S, K].
    """

    def inputs(batch: Batch) -> jax.Array:
        return scaled(batch["image"], intensity)

    def objective(y: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        labels = batch["labels"]
        if isinstance(y, list | tuple):
            values = losses.deep_supervision(functools.partial(loss, known=batch["label"]), list(y), labels)
        else:
            values = loss(y, labels, known=batch["label"])
        seen = (labels != IGNORE).reshape(len(labels), -1).any(1)
        return values, seen.astype(jnp.float32)

    def outputs(y: Any) -> dict[str, jax.Array]:
        logits = y[0] if isinstance(y, list | tuple) else y
        return {"probability": jax.nn.softmax(logits.astype(jnp.float32))}

    flips = [axes for k in range(len(mirrors) + 1) for axes in itertools.combinations(sorted(mirrors), k)]

    def views(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.flip(x, [axis + 1 for axis in axes]) for axes in flips], axis=1)

    def back(seen: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            name: jnp.stack([jnp.flip(y[:, v], [axis + 1 for axis in axes]) for v, axes in enumerate(flips)], axis=1)
            for name, y in seen.items()
        }

    turned: dict[str, Any] = {"views": views, "back": back} if mirrors else {}
    return supervised(model, tx, inputs=inputs, loss=objective, outputs=outputs, **turned)


def examples(geometry: Geometry, intensity: Intensity, classes: int, *, tolerance: float = 1.0) -> Examples:
    """Patches for training, windows for inference, and the way back to a label map on the case's own grid, measured there.

    The row of a case: `labels` (Varying uint8 [D, H, W]), `loss` (mean over its windows), and of each measure of
    `medjax.metrics.segmentation` a float [2, K - 1]: of the labels as they are, and with only the largest component of each
    class. A quick look has no labels, and measures overlap alone, on the prepared grid.

    Args:
      geometry: see `Geometry`.
      intensity: see `scaled`; outside of a volume an image is its mean.
      classes: K, the background among them.
      tolerance: of the normalised surface distance, in mm.
    """
    low, high = np.iinfo(np.int16).min, np.iinfo(np.int16).max
    fill = [int(np.clip(round(mean), low, high)) for _, _, mean, _ in intensity]

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        one = cases.take(np.array([i]))
        prepared = one["labels"][0]
        spent: list[float] = []

        def each() -> Iterator[np.ndarray]:
            for row in outputs:
                spent.append(float(row["loss"]))
                yield row["probability"]

        planes = volumes.join_planes(each(), prepared.shape, geometry, quick=quick)
        if quick:
            found = volumes.planes_to_labels(planes, prepared.shape, prepared.shape)
            tables = metrics.overlap(prepared, found, classes=classes)
            return {**{name: np.stack([x, x]) for name, x in tables.items()}, "loss": np.float64(_mean(spent))}
        truth, box = one["truth"][0], one["box"][0]
        found = volumes.planes_to_labels(planes, prepared.shape, box[:, 1] - box[:, 0])
        found = volumes.on_own_grid(found, box, truth.shape)
        row = measure_labels(truth, found, one["spacing"][0], one["label"][0], classes=classes, tolerance=tolerance)
        return {**row, "labels": Varying(found), "loss": np.float64(_mean(spent))}

    return Examples(
        cut=functools.partial(volumes.cut, geometry=geometry, fill=fill),
        windows=functools.partial(volumes.windows, geometry=geometry, fill=fill),
        join=join,
    )


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else np.nan


def measure_labels(
    truth: np.ndarray, found: np.ndarray, spacing: np.ndarray, known: np.ndarray, *, classes: int, tolerance: float
) -> dict[str, np.ndarray]:
    """{measure: float [2, K - 1]} of a case on its own grid: as it is, and with the largest component of each class alone.

    Classes that the case was not annotated for (`known` int8 [K - 1] is -1) are NaN.
    """
    mm = tuple(float(s) for s in spacing) if np.isfinite(spacing).all() else None
    whole = metrics.measure_case(truth, found, classes=classes, spacing=mm, tolerance=tolerance)
    cleaned = found
    for k in range(1, classes):
        cleaned = metrics.largest_component(cleaned, k)
    if np.array_equal(cleaned, found):
        clean = whole
    else:
        clean = metrics.measure_case(truth, cleaned, classes=classes, spacing=mm, tolerance=tolerance)
    return {name: np.where(known >= 0, np.stack([whole[name], clean[name]]), np.nan) for name in whole}


def calibrate(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
    """{"clean": bool [K - 1]}: the classes whose mean Dice on validation data is better with the largest component alone."""
    plain, clean = (_class_means(rows["dice"][:, v]) for v in (0, 1))
    return {"clean": np.nan_to_num(clean, nan=-1.0) > np.nan_to_num(plain, nan=-1.0)}


def _class_means(table: np.ndarray) -> np.ndarray:
    known = np.isfinite(table)
    return np.where(known.any(0), np.where(known, table, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """Rows whose measures [n, K - 1] and `clean` bool [n, K - 1] are of the labels after the chosen clean-up."""
    measures = [name for name, x in rows.items() if isinstance(x, np.ndarray) and x.ndim == 3]
    if not measures:
        return rows
    n, _, k = rows[measures[0]].shape
    clean = np.broadcast_to(np.asarray(point.get("clean", np.zeros(k, bool)), bool), (n, k))
    chosen = {name: np.where(clean, rows[name][:, 1], rows[name][:, 0]) for name in measures}
    return {**rows, **chosen, "clean": clean}


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """The means over cases and classes of `medjax.metrics.segmentation`; `classes` are those of the foreground.

    Errors of volumes count by their size: those of both signs must not cancel.
    """
    tables = {name: rows[name] for name in metrics.MEASURES if name in rows}
    return metrics.summarise({name: np.abs(x) if name == "volume_error" else x for name, x in tables.items()}, classes)


def clean_labels(rows: Rows, i: int) -> np.ndarray:
    """The label map of a case after the clean-up that `decide` has chosen."""
    labels = np.array(rows["labels"][i])
    for k in np.flatnonzero(rows["clean"][i]):
        labels = metrics.largest_component(labels, int(k) + 1)
    return labels


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str | bytes]:
    """{".csv": id, patient, and each measure of each class; "/ID.ENDING": the mask, in the input's format and on its grid}."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    names = [name for name in metrics.MEASURES if name in rows]
    table.writerow(["id", "patient", *(f"{name}/{label}" for name in names for label in classes)])
    for i, (case, patient) in enumerate(zip(cases["id"], cases["patient"], strict=True)):
        values = [rows[name][i, k] for name in names for k in range(len(classes))]
        table.writerow([case, patient, *("" if not np.isfinite(v) else f"{v:.9g}" for v in values)])
    found: dict[str, str | bytes] = {".csv": out.getvalue()}
    if "labels" not in rows:
        return found
    for i, case in enumerate(cases["id"]):
        facts = {name: cases[name][i] for name in ("affine", "axes", "flips", "spacing")}
        form, labels = str(cases["form"][i]), clean_labels(rows, i)
        if form == "dicom":
            files = [Path(name) for name in str(cases["files"][i]).split("\n")]
            found[f"/{case}.dcm"] = write_seg(labels, slices_of(files), classes)
        else:
            grid = grid_of({**facts, "shape": labels.shape})
            found[f"/{case}.{form}"] = write_mask(labels, grid, form, classes=len(classes))
    return found


def check(cases: Cases, *, classes: Sequence[str]) -> list[str]:
    """Notes on what the training cases cannot teach: classes that none of them has.

    Raises:
      InputError: none has any foreground.
    """
    lacking = ~(cases["label"] == 1).any(0)
    if lacking.all():
        raise InputError("no training mask has any foreground: all of them are empty\ncheck the masks and the label values")
    names = [name for name, lack in zip(classes, lacking, strict=True) if lack]
    return [f"no training case has {', '.join(names)}"] if names else []


def segmentation_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    geometry: Geometry,
    normalise: Sequence[str],
    intensity: Intensity,
    augment: Callable | Augment | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    tolerance: float = 1.0,
    degrade: Callable[[dict], dict] | None = None,
) -> Job:
    """A Job of segmentation with this task file's defaults.

    Args:
      task: from `segmentation`.
      about: words of the report; its classes are those of the foreground.
      sources: -> {split or "all": Source} of volumes with masks.
      read: paths -> Source of volumes without masks, for prediction.
      geometry, normalise, intensity: see `volumes.Geometry`, `volumes.preprocess_volume` and `scaled`.
      augment: of `image` (float, scaled) and `labels` together; it cuts the margin off.
      baselines: intensity table and location table by default.
      tolerance: of the normalised surface distance, in mm.
      degrade: example -> example, done to the image before all else, for harder data.
    """
    from medjax.tasks.voxel_tables import location_table, threshold_table

    k, classes = len(about.classes) + 1, about.classes
    made = examples(geometry, intensity, k, tolerance=tolerance)
    prepare = functools.partial(volumes.preprocess_volume, geometry=geometry, normalise=tuple(normalise))
    score = functools.partial(_score, classes=k, tolerance=tolerance)
    defaults = {"threshold": threshold_table(k, intensity, score), "location": location_table(k, score)}
    words = dict(metrics.DEFINITIONS)
    usual = "1 mm, or 1 pixel where the spacing is not known, unless set otherwise"
    words["nsd"] = words["nsd"].replace(usual, f"{tolerance:g} mm, or pixels where the spacing is not known")
    words |= {f"volume_error/{name}": words["volume_error"] for name in classes if len(classes) > 1}
    return Job(
        about=about._replace(definitions={**words, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=prepare if degrade is None else functools.partial(_in_turn, degrade, prepare),
        augment=augment,
        measure=functools.partial(measure, classes=classes),
        baselines=defaults if baselines is None else baselines,
        figures=functools.partial(overlays.figures, classes=classes, intensity=tuple(intensity)),
        write=functools.partial(write, classes=classes),
        calibrate=calibrate,
        decide=decide,
        examples=made,
        check=functools.partial(check, classes=classes),
    )


def _in_turn(first: Callable[[dict], dict], then: Callable[[dict], dict], example: dict) -> dict:
    return then(first(example))


def _score(cases: Cases, i: int, found: np.ndarray, *, classes: int, tolerance: float) -> dict[str, np.ndarray]:
    """The measures of labels on the prepared grid of case i, brought to its own grid by `volumes.resize_labels`."""
    one = cases.take(np.array([i]))
    truth, box = one["truth"][0], one["box"][0]
    d, h, w = (int(b - a) for a, b in box)
    found = volumes.resize_labels(found, (d, h, w))
    found = volumes.on_own_grid(found, box, truth.shape)
    return measure_labels(truth, found, one["spacing"][0], one["label"][0], classes=classes, tolerance=tolerance)
