"""Generate images: what a GAN's Task needs besides to be measured and watched, and a Job's other parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import About, Baseline, Batch, Examples, Job, State, Task
from medjax.errors import InputError
from medjax.metrics import generation as metrics
from medjax.tasks import extractor as judging
from medjax.tasks import generation_figures, reading
from medjax.tasks.extractor import VARIABLES, Extractor
from medjax.tasks.images import image_preprocess
from medjax.tasks.tables import write_cases

ALBUM, JUDGE = "album", "extractor"  # places in `State.extra`
TIMES, SHOWN = 6, 6  # when an album is taken, and pictures each time
FEWEST = 16  # training images of a class that is to be generated


def to_bytes(image: jax.Array) -> jax.Array:
    """-1..1 -> uint8, as files are written."""
    return jnp.clip(jnp.round((image + 1) * 127.5), 0, 255).astype(jnp.uint8)


def remembered(task: Task, *, latent: int, classes: int, steps: int) -> Task:
    """The task with `extra["album"]`: the same latents' images, uint8 [TIMES, SHOWN, H, W, C], at even times of the training.

    Those are of the weights of the moment, not of an average. Classes take turns.
    """
    every = max(1, steps // TIMES)

    def fixed() -> dict[str, jax.Array]:
        z = jax.random.normal(jax.random.key(0), (SHOWN, latent))
        return {"latent": z, "label": jnp.arange(SHOWN) % max(classes, 1)}

    def init(key: jax.Array, batch: Batch) -> State:
        state = task.init(key, batch)
        shape = jax.eval_shape(lambda: task.predict(state, fixed()))["image"].shape
        return state.replace(extra={**state.extra, ALBUM: jnp.zeros((TIMES, *shape), jnp.uint8)})

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        new, logs = task.update(state, batch, axis)
        album, at = new.extra[ALBUM], new.step // every - 1

        def take() -> jax.Array:
            return album.at[at].set(to_bytes(task.predict(new, fixed())["image"]))

        album = jax.lax.cond((new.step % every == 0) & (at < TIMES), take, lambda: album)
        return new.replace(extra={**new.extra, ALBUM: album}), logs

    return task._replace(init=init, update=update)


def measured(task: Task, of: Extractor, *, classes: int, size: int) -> Task:
    """The task with what measures its images in `extra["extractor"]`, which `start` fills, and rows that are measured.

    Rows: `image` and the nearest training `picture` (uint8), `features`, `real_features`, `score` (of the generated image),
    what `extractor.compare` gives, `number` int [n] (the case's place) and the discriminator's logits.
    """
    model = judging.network(of, classes, size)

    def init(key: jax.Array, batch: Batch) -> State:
        state = task.init(key, batch)
        return state.replace(extra={**state.extra, JUDGE: judging.blank(of, model, batch["image"])})

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        judge = state.extra[JUDGE]
        rows = task.evaluate(state, batch, axis)
        image = to_bytes(rows["image"])
        features, score = judging.look(of, model, judge[VARIABLES], image)
        real_features, _ = judging.look(of, model, judge[VARIABLES], batch["image"])
        found = judging.compare(judge, features, image)
        picture = judge["pictures"][found["place"]]
        rows |= {"image": image, "features": features, "real_features": real_features, "score": score, "picture": picture}
        every = jnp.ones(len(image), bool)
        return {**rows, **found, "number": batch["index"], "generated": every, "real": every}

    return task._replace(init=init, evaluate=evaluate)


def start(of: Extractor, classes: int) -> Callable[[State, Cases], State]:
    """(state, training cases) -> the state with the extractor and the training images in it: a Job's `start`."""

    def fill(state: State, cases: Cases) -> State:
        return state.replace(extra={**state.extra, JUDGE: judging.fit(of, classes, cases)})

    return fill


def real_halves(of: Extractor, classes: int) -> Baseline:
    """One half of the real cases in place of generated images, beside the other half; no group stands in both."""

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        first = halves(cases["group"], cases["label"])
        return _real_rows(of, classes, arrays, cases, first, ~first)

    return Baseline(lambda train, val: judging.flatten(judging.fit(of, classes, train)), predict)


def training_images(of: Extractor, classes: int) -> Baseline:
    """As many training images in place of generated ones: what a generator would reach that copies them."""

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        every = np.ones(len(cases), bool)
        rows = _real_rows(of, classes, arrays, cases, every, every)
        known = np.flatnonzero(arrays["known"])
        drawn = np.resize(np.random.default_rng(0).permutation(known), len(cases))
        copies = {"features": arrays["features"][drawn], "score": arrays["score"][drawn]}
        zero = np.zeros(len(cases), np.float32)
        nothing = {"nearest": zero, "nearest_pixels": zero, "farther": zero > 0, "farther_pixels": zero > 0}
        # Where there are more cases than training images, these come again, and count once.
        return {**rows, **copies, **nothing, "generated": np.arange(len(cases)) < len(known)}

    return Baseline(lambda train, val: judging.flatten(judging.fit(of, classes, train)), predict)


def _real_rows(
    of: Extractor, classes: int, arrays: Mapping[str, np.ndarray], cases: Cases, generated: np.ndarray, real: np.ndarray
) -> Rows:
    judge, image = judging.unflatten(arrays), cases["image"]
    model = judging.network(of, classes, image.shape[1])
    features, score, _ = judging.see(of, model, judge[VARIABLES], image)
    run = jax.jit(lambda f, x: judging.compare(judge, f, x))
    parts = [run(features[k : k + 1024], image[k : k + 1024]) for k in range(0, len(image), 1024)]
    found = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    rows = {"features": features, "real_features": features, "score": score, **found, "number": np.arange(len(image))}
    return {**rows, "generated": generated, "real": real}


def halves(group: np.ndarray, label: np.ndarray) -> np.ndarray:
    """bool [n]: the first half, whole groups, each given to the half that has fewer cases of its class, the largest first."""
    names, at, sizes = np.unique(group, return_inverse=True, return_counts=True)
    first = np.zeros(len(names), bool)
    held: dict[tuple[int, bool], int] = {}
    of = {g: int(label[np.flatnonzero(at == g)[0]]) for g in range(len(names))}
    shuffled = np.random.default_rng(0).permutation(len(names))
    for g in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        first[g] = held.get((of[g], True), 0) <= held.get((of[g], False), 0)
        held[of[g], bool(first[g])] = held.get((of[g], bool(first[g])), 0) + int(sizes[g])
    return first[at]


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """The rows with `inside`, whether a generated image lies on the real manifold, and `found`, a real one on the generated."""
    fake, real = rows["features"][rows["generated"]], rows["real_features"][rows["real"]]
    inside = metrics.covered(rows["features"], real) & rows["generated"]
    return {**rows, "inside": inside, "found": metrics.covered(rows["real_features"], fake) & rows["real"]}


def measure(rows: Rows, cases: Cases, *, classes: int) -> dict[str, float]:
    """fid, kid (where no image stands twice), is (of two classes and more), precision, recall, farther, farther_pixels."""
    fake, real = rows["generated"], rows["real"]
    found = {
        "precision": _share(rows["inside"], fake),
        "recall": _share(rows["found"], real),
        "farther": _share(rows["farther"], fake),
        "farther_pixels": _share(rows["farther_pixels"], fake),
    }
    if classes > 1:
        found["is"] = metrics.inception_score(rows["score"][fake])
    number = rows["number"]
    if len(np.unique(number)) == len(number):
        pair = rows["features"][fake], rows["real_features"][real]
        found |= {"fid": metrics.frechet_distance(*pair), "kid": metrics.kernel_distance(*pair)}
    if "real_logit" in rows:
        middle = (rows["real_logit"].mean() + rows["fake_logit"].mean()) / 2
        found["real_side"] = float(np.sign(rows["real_logit"] - middle).mean())
    return found


def _share(values: np.ndarray, of: np.ndarray) -> float:
    return float(values[of].mean()) if of.any() else float("nan")


def definitions(of: Extractor, *, classes: int, size: int) -> dict[str, str]:
    """What the measures mean."""
    beside = (
        f"{of.tell(size, classes)} As many generated images as the split has real ones, of their classes where there are any, "
        "from fixed seeds, against those held-out real ones. Beside it: `real`, one half of the split's real images against "
        "the other, of half as many each, no group in both; `training`, as many training images, which is what copying reaches."
    )
    about = "training images, near-copies and the same patient left out: the median distance of each to its nearest"
    ball = f"distance to its {metrics.NEIGHBOURS}rd nearest"
    return {
        "fid": f"Frechet distance of the features' normal distributions, 0 and more, lower is better; few images raise it. "
        f"{beside}",
        "kid": f"Unbiased squared maximum mean discrepancy of the features, cubic kernel, about 0 is best, no scale. {beside}",
        "is": "exp of the mean KL divergence of an image's class probabilities from their mean, by the features' own network; "
        f"1 to the number of classes, higher is better. {beside}",
        "precision": f"Share of generated images that lie within a real image's {ball} real one: how real they are. {beside}",
        "recall": f"Share of real images that lie within a generated image's {ball} generated one: how much of the variety "
        f"there is. {beside}",
        "farther": f"Share of generated images that are farther from all (at most {of.reference}) training images than real "
        f"ones are from each other by features ({about}); about 0.5 for new real images, low where training images are "
        "repeated.",
        "farther_pixels": f"The same by pixels of pictures reduced to {judging.PICTURE} a side.",
        "real_side": "On which side of the middle between its mean logits the discriminator puts real images of the split, "
        "mean sign, -1 to 1. Far below its value on training images (real_side in metrics.jsonl), it knows those by heart.",
    }


def one_a_case() -> Examples:
    """Cases are examples; of several members each gives every so many images: what they make has no mean."""

    def windows(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        yield {}

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        return next(outputs)

    def merge(rows: Sequence[Rows]) -> Rows:
        turn = rows[0]["number"] % len(rows)
        return {name: np.stack([r[name] for r in rows])[turn, np.arange(len(turn))] for name in rows[0]}

    return Examples(lambda cases, rng: {}, windows, join, merge=merge)


def preprocess(example: dict, *, prepare: Callable[[dict], dict], form: str, mixed: str) -> dict:
    """An image prepared as for classification.

    Raises:
      InputError: one value alone, or grey among colour (the other way round) where that is not to be converted.
    """
    image = example["image"]
    colour = image.ndim == 3
    if mixed == "stop" and colour != (form == "colour"):
        raise InputError(
            f"{example['id']}: is {'colour' if colour else 'grey'}, where others are {form}\n"
            f"take it out, or let all become {form}: --image.mixed convert"
        )
    if image.min() == image.max():
        raise InputError(f"{example['id']}: every pixel has the value {image.flat[0]}\ntake it out, or --data.on_error skip")
    return prepare(example)


def check(cases: Cases, *, classes: Sequence[str]) -> list[str]:
    """Notes on the training cases.

    Raises:
      InputError: a class of too few images to generate from.
    """
    label = cases["label"]
    for k, name in enumerate(classes or ("all",)):
        count = int((label == k).sum()) if classes else len(label)
        if count < FEWEST:
            raise InputError(
                f"the class {name!r} has {count} training images, and a generator needs {FEWEST} and more\n"
                "add images, or take its folder out"
            )
    return []


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str | bytes]:
    """{".csv": how far each generated image is from the training images; "/reading.html", "/key.csv": see `reading`}."""
    truth = [classes[label] if classes and label >= 0 else "" for label in cases["label"]]
    names = ("nearest", "nearest_pixels", "farther", "farther_pixels", "inside", "real_logit", "fake_logit")
    table = {"class": truth, **{name: [f"{float(x):.6g}" for x in rows[name]] for name in names if name in rows}}
    files: dict[str, str | bytes] = {".csv": write_cases(cases, table)}
    page = reading.make(generation_figures.shown(rows["image"]), generation_figures.shown(cases["image"]))
    return {**files, **({} if page is None else {"/reading.html": page.html, "/key.csv": page.key})}


def generation_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    size: int,
    form: str,
    extractor: Extractor,
    crop: Callable[[np.ndarray], tuple] | None = None,
    mixed: str = "stop",
    steps: int,
) -> Job:
    """A Job of generation.

    Args:
      task: `adversarial`, `remembered` and `measured`.
      about: words of the report; classes where the generator is conditional, else none.
      sources: -> {split or "all": Source} of examples with `image` and `label`.
      size, crop: how pictures are prepared, see `image_preprocess`.
      form: "grey" or "colour".
      extractor: what images are measured by.
      mixed: "stop" or "convert" pictures of the other form.
      steps: of the training, for the captions.
    """
    names, k = about.classes, len(about.classes)
    prepare = image_preprocess(size=size, crop=crop, channels="colour" if form == "colour" else "grey")
    words = {**definitions(extractor, classes=k, size=size), **about.definitions}
    return Job(
        about=about._replace(definitions=words),
        task=task,
        sources=sources,
        read=_no_files,
        preprocess=functools.partial(preprocess, prepare=prepare, form=form, mixed=mixed),
        augment=None,
        measure=functools.partial(measure, classes=0 if extractor.weights else k),
        baselines={"real": real_halves(extractor, k), "training": training_images(extractor, k)},
        figures=functools.partial(generation_figures.figures, classes=names),
        write=functools.partial(write, classes=names),
        decide=decide,
        start=start(extractor, k),
        explain=functools.partial(generation_figures.course, steps=steps),
        examples=one_a_case(),
        check=functools.partial(check, classes=names),
    )


def _no_files(inputs: Sequence[Any]) -> Any:
    raise InputError(
        "this run generates images, and looks at none\nsay how many: medjax predict RUN --count N --out DIR", usage=True
    )
