"""The network by whose features generated images are measured, and the training images that they are held beside.

By default a small residual network that is trained on the run's own training images, to tell their classes; where there are no
two classes, to tell by how many quarters an image was turned (Gidaris et al., ICLR 2018). It is a function of the training
images and of its settings alone, so that runs on the same images are measured alike.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from medjax import models
from medjax.cases import Cases
from medjax.console import say
from medjax.core import Batch, augmented
from medjax.data import augment
from medjax.data.augment import to_unit
from medjax.data.pipeline import pipeline
from medjax.errors import InputError
from medjax.files import cache_dir, sha256, write_bytes
from medjax.metrics.generation import nearest
from medjax.models.resnet import ResNet
from medjax.models.weights import load_weights, normalise_imagenet, normalise_xrv, read_state_dict

VERSION = 1  # of what is kept
TURNS = 4
BATCH = 32
PICTURE = 32  # side, at most, of the training pictures that are kept
VARIABLES = "variables"


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What generated images are measured by."""

    steps: int = 500
    """Updates of the network that is trained to extract features."""
    width: int = 16
    """Channels of its first stage; there are eight times as many features."""
    reference: int = 4096
    """Training images, at most, that each generated one is compared with."""
    weights: str | None = None
    """A published residual network's weights in place of the trained one, .safetensors or .pth; no inception score then."""
    name: Literal["resnet18", "resnet34", "resnet50"] = "resnet50"
    """Which one that is."""
    scale: Literal["imagenet", "xrv"] = "imagenet"
    """What its weights expect: torchvision's and timm's, or TorchXRayVision's."""
    resize: int = 224
    """The side that images are brought to for it, bilinearly, antialiased."""

    def __post_init__(self) -> None:
        if min(self.steps, self.width, self.reference, self.resize) < 1:
            raise InputError("--measure.steps, .width, .reference and .resize: must be 1 or more", usage=True)

    def tell(self, size: int, classes: int) -> str:
        """What it is, for definitions."""
        if self.weights:
            return (
                f"Features: channel means of {self.name} with the weights of {Path(self.weights).name}. Images as prepared, "
                f"{size} x {size} pixels of 8 bits, brought to {self.resize} x {self.resize} bilinearly, antialiased."
            )
        task = f"to tell {classes} classes" if classes > 1 else "to tell by how many quarters an image is turned"
        return (
            f"Features: {8 * self.width} channel means of a residual network of medjax, trained {self.steps} updates on the "
            f"run's real training images {task}. Images as prepared, {size} x {size} pixels of 8 bits, values to -1..1; "
            "nothing is resized for it."
        )


def network(of: Extractor, classes: int, size: int) -> ResNet:
    """The flax module; small images keep their grid in the first stage."""
    if of.weights:
        return models.find(of.name)(1)
    small = size <= 32
    k = classes if classes > 1 else TURNS
    return ResNet(k, of.width, (1, 1, 1, 1), stem_stride=1 if small else 2, stem_kernel=3 if small else 5)


def scaled(image: jax.Array) -> jax.Array:
    """uint8 [...] -> -1..1."""
    return 2 * to_unit(image) - 1


def look(of: Extractor, model: ResNet, variables: Mapping[str, Any], image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 [n, H, W, C] -> (features [n, F], class probabilities [n, K]), float32."""
    if of.weights:
        shape = (len(image), of.resize, of.resize, image.shape[-1])
        large = jax.image.resize(to_unit(image), shape, "linear", antialias=True)
        x = (normalise_imagenet if of.scale == "imagenet" else normalise_xrv)(large)
    else:
        x = scaled(image)
    maps: Any = model.apply(variables, x, train=False, features=True)
    last = maps[-1]
    features = last.mean((1, 2)).astype(jnp.float32)
    head = variables["params"]["head"]
    return features, jax.nn.softmax(features @ head["kernel"] + head["bias"])


def reduced(image: jax.Array) -> jax.Array:
    """Pictures uint8 [n, H, W, C] with sides of at most `PICTURE`, antialiased, uint8."""
    n, h, w, c = image.shape
    if max(h, w) <= PICTURE:
        return image
    small = jax.image.resize(image.astype(jnp.float32), (n, min(h, PICTURE), min(w, PICTURE), c), "linear", antialias=True)
    return jnp.clip(jnp.round(small), 0, 255).astype(jnp.uint8)


def blank(of: Extractor, model: ResNet, image: Any) -> dict[str, Any]:
    """What `fit` gives for images like uint8 [n, H, W, C], all zeros: its place in a State."""
    one = jax.ShapeDtypeStruct((1, *image.shape[1:]), jnp.uint8)
    variables = jax.eval_shape(functools.partial(_initial, of, model), one)
    features, score = jax.eval_shape(functools.partial(look, of, model), variables, one)
    picture = jax.eval_shape(reduced, one)
    return {
        VARIABLES: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables),
        "features": jnp.zeros((of.reference, features.shape[1]), jnp.float32),
        "score": jnp.zeros((of.reference, score.shape[1]), jnp.float32),
        "pictures": jnp.zeros((of.reference, *picture.shape[1:]), jnp.uint8),
        "known": jnp.zeros(of.reference, jnp.int8),
        "medians": jnp.zeros(2, jnp.float32),
    }


def _initial(of: Extractor, model: ResNet, image: jax.Array) -> Any:
    """Variables of the network for images like these."""
    channels = 1 if of.weights and of.scale == "xrv" else 3 if of.weights else image.shape[-1]
    return model.init(jax.random.key(0), jnp.zeros((1, *image.shape[1:-1], channels)), train=False)


def compare(judge: Mapping[str, Any], features: jax.Array, image: jax.Array) -> dict[str, jax.Array]:
    """Each image's nearest training image, by features and by reduced pictures.

    Returns:
      {"nearest" [n]: distance of features, "place" int32 [n]: that training image, "nearest_pixels" [n]: root mean square
      difference of the pictures in grey levels of 256, "farther" and "farther_pixels" bool [n]: beyond the median of real ones}
    """

    def distances(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = (a.reshape(len(a), -1).astype(jnp.float32) for a in (x, y))
        squares = jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1) - 2 * x @ y.T
        return jnp.where(judge["known"][None, :] > 0, jnp.sqrt(jnp.maximum(squares, 0)), jnp.inf)

    of_features = distances(features, judge["features"])
    pictures = [x.astype(jnp.float32) - 128 for x in (reduced(image), judge["pictures"])]  # small numbers round less
    of_pixels = distances(*pictures).min(1) / np.sqrt(pictures[0][0].size)
    found = of_features.min(1)
    return {
        "nearest": found,
        "place": of_features.argmin(1).astype(jnp.int32),
        "nearest_pixels": of_pixels,
        "farther": found > judge["medians"][0],
        "farther_pixels": of_pixels > judge["medians"][1],
    }


def fit(of: Extractor, classes: int, cases: Cases) -> dict[str, Any]:
    """Train the network on training cases, and look at these: a tree as of `blank`, of NumPy arrays.

    It is kept in the private cache, and read from there where the same images and settings come again. `medians` are those of
    the distances from each training image to the nearest of another group, by features and by pictures: images that share a
    patient or are near-copies of each other would lie too near.
    """
    image, label, group = cases["image"], cases["label"], cases["group"]
    key = hashlib.sha256(f"{VERSION}|{of}|{classes}|{image.shape}".encode())
    for part in (np.ascontiguousarray(image), np.asarray(label, np.int64), np.unique(group, return_inverse=True)[1]):
        key.update(part.tobytes())
    if of.weights:
        key.update(sha256(of.weights).encode())
    path = cache_dir() / "extractors" / f"{key.hexdigest()[:24]}.npz"
    if not path.is_file():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not of.weights:
            say(f"training the network that generated images are measured by ({of.steps} updates)")
        write_bytes(path, _packed(flatten(_fit(of, classes, cases, image, group))))
    with np.load(path, allow_pickle=False) as kept:
        return unflatten(dict(kept))


def _fit(of: Extractor, classes: int, cases: Cases, image: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    model = network(of, classes, image.shape[1])
    variables = _load(of, model, image) if of.weights else _train(of, model, classes, cases)
    kept = np.arange(len(image))
    if len(kept) > of.reference:
        kept = np.sort(np.random.default_rng(0).choice(len(image), of.reference, replace=False))
    features, score, pictures = see(of, model, variables, image[kept])
    flat = pictures.reshape(len(kept), -1).astype(np.float32)
    own = group[kept]
    medians = [
        _median(nearest(x, x, group=own, of=own)[0]) for x in (features.astype(np.float64), flat / np.sqrt(flat.shape[1]))
    ]
    room = of.reference - len(kept)

    def padded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((room, *x.shape[1:]), x.dtype)])

    return {
        VARIABLES: jax.device_get(variables),
        "features": padded(features),
        "score": padded(score),
        "pictures": padded(pictures),
        "known": padded(np.ones(len(kept), np.int8)),
        "medians": np.array(medians, np.float32),
    }


def _median(distances: np.ndarray) -> float:
    """Of those that are finite: with one group alone there is no other, and the median is 0."""
    finite = distances[np.isfinite(distances)]
    return float(np.median(finite)) if len(finite) else 0.0


def _load(of: Extractor, model: ResNet, image: np.ndarray) -> dict[str, Any]:
    """Raises InputError where the weights are of another network, the file named."""
    assert of.weights
    variables = jax.jit(functools.partial(_initial, of, model))(jnp.asarray(image[:1]))
    try:
        filled, _ = load_weights(variables, read_state_dict(of.weights), model.from_torch)
    except InputError as error:
        raise InputError(f"{of.weights}: {error}") from None
    return filled


def _train(of: Extractor, model: ResNet, classes: int, cases: Cases) -> dict[str, Any]:
    import optax

    from medjax.tasks.classification import classification

    change = augment.image_augment(
        augment.affine(rotate=10, scale=0.1, shift=0.05, flip=0.5), augment.intensity(gamma=0.2, gain=0.2, noise=0.02)
    )

    def turned(key: jax.Array, example: Batch) -> dict[str, Any]:
        quarter = jax.random.randint(jax.random.fold_in(key, 1), (), 0, TURNS)
        image = change(key, example)["image"]
        image = jax.lax.switch(quarter, [functools.partial(jnp.rot90, k=k) for k in range(TURNS)], image)
        return {**example, "image": image, "label": quarter}

    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, of.steps // 10, of.steps)
    task = classification(model, optax.adamw(rate, weight_decay=0.05), inputs=lambda b: scaled(b["image"]), smoothing=0.1)
    task = augmented(task, change if classes > 1 else turned)
    make = pipeline(cases, BATCH, seed=0, sampling="groups")

    def batch(step: int) -> dict[str, Any]:
        return {name: value for name, value in make(step).items() if name in ("image", "label", "mask")}

    state = jax.jit(task.init)(jax.random.key(0), batch(0))
    update = jax.jit(task.update, donate_argnums=0)
    for step in range(of.steps):
        state, _ = update(state, batch(step))
    return {"params": state.params, **state.extra}


def see(
    of: Extractor, model: ResNet, variables: Mapping[str, Any], image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [n, H, W, C] -> (features [n, F], score [n, K], reduced pictures), a batch at a time."""
    run = jax.jit(lambda x: (*look(of, model, variables, x), reduced(x)))
    parts = []
    for start in range(0, len(image), 4 * BATCH):
        part = np.asarray(image[start : start + 4 * BATCH])
        filled = np.concatenate([part, np.repeat(part[:1], 4 * BATCH - len(part), 0)])
        parts.append([np.asarray(x)[: len(part)] for x in run(filled)])
    features, score, pictures = (np.concatenate(column) for column in zip(*parts))
    return features, score, pictures


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays as {a/b/c: array}."""
    found: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = np.asarray(value)
    return found


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[name] = value
    return tree


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()
