"""How a picture becomes an example, and detections boxes on it again: rows matched with the truth, members fused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medjax.cases import Cases, Rows, Varying
from medjax.core import Examples
from medjax.errors import InputError
from medjax.formats.image import resize, to_grey
from medjax.metrics import detection as metrics
from medjax.tasks.images import Windows, _to_integers

Canvas = tuple[int, int]  # height, width


def preprocess_boxes(
    example: dict, *, canvases: Sequence[Canvas], channels: Literal["grey", "colour"], windows: Windows = ()
) -> dict:
    """A picture on the canvas of which it fills most, at the top left, its aspect kept and the rest its mean.

    Args:
      example: `image` [H, W] or [H, W, 3], `boxes`, `category`, `crowd` (Varying), and the rest, which is kept.
      canvases: (height, width) each.
      channels: "grey" gives C = 1, colours as their luma; "colour" C = 3.
      windows: (centre, width) of CT windows, of images in Hounsfield units.

    Returns:
      The example with `image` Varying [h, w, C] uint8 (int16 with windows), `bucket` (place of its canvas), `scale` float32 [2]
      (canvas pixels to one of the file, along rows and columns), `extent` float32 [2] and `size` int32 [2].
    """
    image = example["image"]
    if channels == "grey" or windows:
        image = to_grey(image)
    image = _to_integers(example["id"], image, windows)
    height, width = image.shape[:2]
    grow = [min(h / height, w / width) for h, w in canvases]
    bucket = int(np.argmax([g * g * height * width / (h * w) for g, (h, w) in zip(grow, canvases, strict=True)]))
    (h, w), g = canvases[bucket], grow[bucket]
    inner = max(1, min(h, round(height * g))), max(1, min(w, round(width * g)))
    image = resize(image, inner)
    image = image if image.ndim == 3 else image[..., None]
    if channels == "colour" and image.shape[-1] == 1 and not windows:
        image = np.repeat(image, 3, axis=-1)
    page = np.empty((h, w, image.shape[-1]), image.dtype)
    page[:] = np.round(image.mean((0, 1))).astype(image.dtype)
    page[: inner[0], : inner[1]] = image
    return {
        **example,
        "image": Varying(page),
        "bucket": np.int32(bucket),
        "scale": np.array([inner[0] / height, inner[1] / width], np.float32),
        "extent": np.array(inner, np.float32),
        "size": np.array([height, width], np.int32),
    }


def _on_canvas(found: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return found * np.tile(scale[::-1], 2)


def examples(*, most_boxes: int, most: int, classes: int, rule: metrics.Rule, overlap: float, buckets: int) -> Examples:
    """Pictures as examples, and detections as rows in pixels of their files, matched with the truth there.

    The row of a case: `boxes` float32 [D, 4], `score` float32 [D], `category` int32 [D] (-1 padding), `gate` float32 [K],
    `loss`; `coco` int8 [D, 10], `rsna` int8 [D, 8] and `hit` int32 [D] by `medjax.metrics.detection`; `lesions` int32 [K],
    true boxes.

    Args:
      most_boxes: M, true boxes that an example has room for.
      most: D, detections of a case.
      classes: K.
      rule: when a detection hits a lesion.
      overlap: IoU from which boxes of several members are one.
      buckets: how many canvases there are.
    """

    def place(cases: Cases) -> dict[str, np.ndarray]:
        n = len(cases)
        found, kind = np.zeros((n, most_boxes, 4), np.float32), np.full((n, most_boxes), -1, np.int32)
        # A batch has one canvas. Where cases of two meet, those of the other are cut at it.
        images, extent = list(cases["image"]), np.array(cases["extent"])
        h, w = images[int(cases["bucket"].argmax())].shape[:2]
        other = np.array([image.shape[:2] != (h, w) for image in images])
        columns = [cases[name] for name in ("boxes", "category", "crowd")]
        for i, (b, c, crowd, scale) in enumerate(zip(*columns, cases["scale"], strict=True)):
            k = min(len(b), most_boxes)
            found[i, :k], kind[i, :k] = _on_canvas(b[:k], scale), np.where(crowd[:k], -2, c[:k])
            if other[i]:
                images[i], extent[i] = _laid(images[i], extent[i], (h, w))
                found[i], kind[i] = _cut(found[i], kind[i], extent[i])
        return {"image": np.stack(images), "boxes": found, "category": kind, "extent": extent}

    def cut(cases: Cases, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return place(cases)

    def windows(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        yield {name: x[0] for name, x in place(cases.take(np.array([i]))).items()}

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        (row,) = list(outputs)
        one = cases.take(np.array([i]))
        found = {"boxes": row["boxes"] / np.tile(one["scale"][0][::-1], 2), "score": row["score"], "category": row["category"]}
        if len(row["score"]) > most:
            found = fuse(found, members=len(row["score"]) // most, most=most, overlap=overlap)
        return {**row_of(found, one, classes=classes, rule=rule), "gate": row["gate"], "loss": np.float64(row["loss"])}

    def merge(members: Sequence[Rows]) -> Rows:
        if len(members) == 1:
            return members[0]
        side_by_side = {name: np.concatenate([m[name] for m in members], 1) for name in ("boxes", "score", "category")}
        return {**side_by_side, **{name: np.mean([m[name] for m in members], 0) for name in ("gate", "loss")}}

    return Examples(cut, windows, join, (lambda cases: cases["bucket"]) if buckets > 1 else None, merge)


def _laid(image: np.ndarray, extent: np.ndarray, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """(a picture [h, w, C] on another canvas, what of it is seen there), from the top left, the rest its mean."""
    h, w = (int(min(e, c)) for e, c in zip(extent, canvas, strict=True))
    page = np.empty((*canvas, image.shape[-1]), image.dtype)
    page[:] = np.round(image[:h, :w].mean((0, 1))).astype(image.dtype)
    page[:h, :w] = image[:h, :w]
    return page, np.array([h, w], np.float32)


def _cut(found: np.ndarray, kind: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M, 4] cut at an extent; of which less than half is left are not to be learnt, of which nothing is go."""
    height, width = extent
    kept = np.clip(found, 0, np.array([width, height, width, height], np.float32))
    whole, left = ((b[:, 2:] - b[:, :2]).prod(1) for b in (found, kept))
    kind = np.where((left < 0.5 * whole) & (kind >= 0), -2, kind)
    gone = (left <= 0) | (kind == -1)
    return np.where(gone[:, None], 0, kept), np.where(gone, -1, kind)


def fuse(found: Mapping[str, np.ndarray], *, members: int, most: int, overlap: float) -> dict[str, np.ndarray]:
    """Detections of an ensemble's members as one set: weighted boxes fusion (Solovyev et al., Image Vis. Comput. 2021).

    In descending order of score, a box joins the cluster of its class whose mean box it overlaps most and by more than
    `overlap`, or begins one. A cluster's box is the mean weighted by score; its score the sum over its boxes, one of each
    member at most counting (the best), over the number of members.

    Args:
      found: `boxes` [m, 4], `score` and `category` [m], the members' one after the other, as many of each.
    """
    member = np.arange(len(found["score"])) // (len(found["score"]) // members)
    clusters: list[dict[str, Any]] = []
    for d in np.argsort(-found["score"], kind="stable"):
        kind, score, box = int(found["category"][d]), float(found["score"][d]), found["boxes"][d].astype(np.float64)
        if kind < 0:
            continue
        same = [c for c in clusters if c["kind"] == kind]
        near = metrics.iou(box[None], np.array([c["box"] for c in same]))[0] if same else np.zeros(0)
        if len(near) and near.max() > overlap:
            c = same[int(near.argmax())]
        else:
            c = {"kind": kind, "box": box, "sum": np.zeros(4), "weight": 0.0, "of": {}}
            clusters.append(c)
        c["sum"], c["weight"] = c["sum"] + score * box, c["weight"] + score
        c["box"] = c["sum"] / max(c["weight"], 1e-12)
        c["of"].setdefault(int(member[d]), score)
    clusters.sort(key=lambda c: -sum(c["of"].values()))
    return padded(
        np.array([c["box"] for c in clusters[:most]]).reshape(-1, 4),
        np.array([sum(c["of"].values()) / members for c in clusters[:most]]),
        np.array([c["kind"] for c in clusters[:most]], int),
        most,
    )


def padded(found: np.ndarray, score: np.ndarray, category: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """The `most` detections of highest score as `boxes` [D, 4], `score` [D] and `category` [D], -1 where there are fewer."""
    order = np.argsort(-score, kind="stable")[:most]
    made = {
        "boxes": np.zeros((most, 4), np.float32),
        "score": np.zeros(most, np.float32),
        "category": np.full(most, -1, np.int32),
    }
    made["boxes"][: len(order)], made["score"][: len(order)] = found[order], score[order]
    made["category"][: len(order)] = category[order]
    return made


def row_of(found: Mapping[str, np.ndarray], one: Cases, *, classes: int, rule: metrics.Rule) -> dict[str, Any]:
    """The row of a case from its detections, in pixels of its file, see `examples`.

    Args:
      found: `boxes` [D, 4], `score` [D], `category` [D].
      one: the case alone.
    """
    height, width = one["size"][0]
    cut = np.clip(found["boxes"], 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
    truth = one["boxes"][0], one["category"][0], one["crowd"][0]
    return {
        "boxes": cut,
        "score": np.asarray(found["score"], np.float32),
        "category": np.asarray(found["category"], np.int32),
        **metrics.judge(cut, found["score"], found["category"], *truth, classes=classes, rule=rule),
    }


def check(cases: Cases, *, classes: Sequence[str]) -> list[str]:
    """Notes on what the training cases cannot teach.

    Raises:
      InputError: none has a box.
    """
    lacking = ~(cases["label"] == 1).any(0)
    if lacking.all():
        raise InputError("no training image has any box\ncheck where the boxes are, and how the data is split")
    names = [name for name, lack in zip(classes, lacking, strict=True) if lack]
    return [f"no training image has a box of {', '.join(names)}"] if names else []
