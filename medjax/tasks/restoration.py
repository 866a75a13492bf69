"""Restore images: the Tasks of a plain and of an adversarial training, one after the other, and a Job's other parts."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.cases import Cases, Rows
from medjax.core import About, Augment, Baseline, Batch, Job, State, Task
from medjax.errors import InputError
from medjax.formats.restored import write_restored
from medjax.metrics import restoration as metrics
from medjax.metrics.restoration import Scale
from medjax.nn import image_losses
from medjax.tasks import restoration_figures, tiles
from medjax.tasks.adversarial import Changed, Game, Images, adversarial
from medjax.tasks.supervised import supervised

ADVERSARIAL = "adversarial"  # what the second phase's measures are called by, behind a slash
Distance = Callable[[jax.Array, jax.Array], jax.Array]


def scaled(batch: Batch, name: str) -> jax.Array:
    """A batch's `worse` or `truth` as a network takes it: less the case's offset, over its unit (its column `scale`)."""
    offset, unit = batch["scale"][:, :1], batch["scale"][:, 1:]
    image = batch[name].astype(jnp.float32)
    shape = (-1, *[1] * (image.ndim - 1))
    return (image - offset.reshape(shape)) / unit.reshape(shape)


def content_loss(
    pixel: str = "absolute", *, structure: float = 0.0, features: tuple[Distance, float] | None = None
) -> Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]:
    """(image, batch) -> (loss [n], weight [n]): a pixel loss + `structure` (1 - SSIM) + a weight of a distance of features."""
    base: Distance = {"absolute": image_losses.absolute, "square": image_losses.square}[pixel]

    def loss(image: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        truth = scaled(batch, "truth")
        values = base(image, truth)
        if structure:
            values += structure * image_losses.structure(image, truth)
        if features is not None:
            values += features[1] * features[0](image, truth)
        return values, (batch["label"] >= 0).astype(jnp.float32)

    return loss


def restoring(model: nn.Module, tx: optax.GradientTransformation, *, loss: Any) -> Task:
    """A worse image [n, h, w, C] to a better one [n, H, W, C] by `loss` alone; outputs are `image`, as of `scaled`."""
    given = functools.partial(scaled, name="worse")
    return supervised(model, tx, inputs=given, loss=loss, outputs=lambda y: {"image": y})


def refining(
    model: nn.Module,
    discriminator: nn.Module,
    tx: Mapping[str, optax.GradientTransformation],
    *,
    loss: Any,
    game: Game,
    augment: Changed | None = None,
    judged: Images = lambda image, batch: image,
) -> Task:
    """As `restoring`, with a discriminator's term beside `loss`; see `medjax.tasks.adversarial`."""
    return adversarial(
        model,
        discriminator,
        tx,
        inputs=functools.partial(scaled, name="truth"),
        given=functools.partial(scaled, name="worse"),
        content=loss,
        judged=judged,
        augment=augment,
        game=game,
    )


def in_turn(first: Task, then: Task, at: int) -> Task:
    """`first` for `at` updates, then `then`, whose generator begins as what `first` has learned, which stays as it is.

    Both lie in one State, under "first" and "then" of `params`, `extra` and `opt`, and both are evaluated: rows of the second
    are called NAME/adversarial. Only the one whose turn it is is computed. Until its turn the second's generator follows the
    first, so that a moving average of its weights does not begin at random ones.

    Args:
      first: with one network.
      then: from `adversarial`, whose generator is that network.
      at: updates of the first.
    """

    def part(state: State, name: str) -> State:
        return state.replace(params=state.params[name], extra=state.extra[name], opt=state.opt[name])

    def whole(state: State, one: State, two: State) -> State:
        return state.replace(
            step=state.step + 1,
            params={"first": one.params, "then": two.params},
            extra={**state.extra, "first": one.extra, "then": two.extra},
            opt={"first": one.opt, "then": two.opt},
        )

    def init(key: jax.Array, batch: Batch) -> State:
        one, two = first.init(key, batch), then.init(jax.random.fold_in(key, 1), batch)
        two = _follow(one, two)
        state = whole(one.replace(params={}, extra={}, opt={}), one, two)
        return state.replace(step=jnp.zeros((), jnp.int32))

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        one, two = part(state, "first"), part(state, "then")

        def plain() -> tuple[State, dict[str, jax.Array]]:
            new, logs = first.update(one, batch, axis)
            return whole(state, new, _follow(new, two)), logs

        def against() -> tuple[State, dict[str, jax.Array]]:
            new, logs = then.update(two, batch, axis)
            return whole(state, one, new), logs

        names = [jax.eval_shape(turn)[1] for turn in (plain, against)]
        every = {name: jnp.zeros(x.shape, x.dtype) for logs in names for name, x in logs.items()}

        def filled(turn: Callable) -> Callable:
            def call() -> tuple[State, dict[str, jax.Array]]:
                new, logs = turn()
                return new, {**every, **logs}

            return call

        return jax.lax.cond(state.step < at, filled(plain), filled(against))

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        rows = then.evaluate(part(state, "then"), batch, axis)
        return {**first.evaluate(part(state, "first"), batch, axis), **{f"{n}/{ADVERSARIAL}": x for n, x in rows.items()}}

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        outputs = then.predict(part(state, "then"), batch)
        return {**first.predict(part(state, "first"), batch), **{f"{n}/{ADVERSARIAL}": x for n, x in outputs.items()}}

    return Task(init, update, evaluate, predict)


def _follow(one: State, two: State) -> State:
    # Copies: an engine gives a state's memory away at an update, which it can do only once.
    params, extra = jax.tree.map(jnp.copy, (one.params, one.extra))
    return two.replace(params={**two.params, "generator": params}, extra={**two.extra, "generator": extra})


def as_slices(volume: np.ndarray) -> np.ndarray:
    """[D, H, W, C] -> [D * C, H, W], which measures take."""
    d, h, w, c = volume.shape
    return np.moveaxis(volume, -1, 1).reshape(d * c, h, w)


def measure_case(
    cases: Cases, i: int, images: Mapping[str, np.ndarray], quick: bool, *, scale: Scale, structure: Scale
) -> dict[str, Any]:
    """{measure: float64}, of "image" by their names and of "image/VARIANT" as MEASURE/VARIANT; NaN where no truth is known."""
    truth = cases["truth"][i]
    known = truth.size and cases["label"][i] >= 0
    found: dict[str, Any] = {}
    for name, volume in images.items():
        variant = name.removeprefix(tiles.IMAGE)
        if known:
            values = metrics.measure_volume(as_slices(truth), as_slices(volume), scale=scale, structure=structure, quick=quick)
        else:
            values = dict.fromkeys(metrics.QUICK if quick else (*metrics.MEASURES, "psnr/slice"), np.nan)
        found |= {f"{measure}{variant}": np.float64(value) for measure, value in values.items()}
    return found


def measure(rows: Rows, cases: Cases) -> dict[str, float]:
    """Means over cases of every measure, and of the discriminator's watch: `real_sign`, the mean sign of D on true images."""
    known = [name for name in rows if name.partition("/")[0] in metrics.MEASURES]
    if cases["truth"].shapes[:, 0].max() <= 1:  # of pictures it is PSNR itself
        known = [name for name in known if not name.startswith("psnr/slice")]
    found = metrics.summarise({name: np.asarray(rows[name]) for name in known})
    logit = rows.get(f"real_logit/{ADVERSARIAL}")
    if logit is not None:
        found[f"real_sign/{ADVERSARIAL}"] = float(np.sign(logit).mean())
    return found


def write(rows: Rows, cases: Cases) -> dict[str, str | bytes]:
    """{".csv": id, patient and each measure; "/ID...": the restored image, "/adversarial/ID..." the other's}, as its input's
    format at full depth: see `write_restored`.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    names = [name for name in rows if name.partition("/")[0] in metrics.MEASURES]
    table.writerow(["id", "patient", *names])
    for i, (case, patient) in enumerate(zip(cases["id"], cases["patient"], strict=True)):
        values = [float(rows[name][i]) for name in names]
        table.writerow([case, patient, *("" if np.isnan(v) else f"{v:.9g}" for v in values)])
    files: dict[str, str | bytes] = {".csv": out.getvalue()}
    for name in (name for name in rows if name.startswith(tiles.IMAGE)):
        folder = name.removeprefix(tiles.IMAGE)
        for i, case in enumerate(cases["id"]):
            facts = {key: cases[key][i] for key in ("affine", "axes", "flips", "spacing", "form", "files", "stored")}
            for ending, data in write_restored(np.asarray(rows[name][i]), cases["worse"].shapes[i], facts).items():
                files[f"{folder}/{case}{ending}"] = data
    return files


def check(cases: Cases) -> list[str]:
    """Notes on training cases that teach nothing: those of one value.

    Raises:
      InputError: no training case has a truth, or all are of one value.
    """
    if not (cases["label"] >= 0).any():
        raise InputError("no training image has a truth to learn from\ngive pairs, or whole images to be made worse")
    flat = cases["flat"]
    if flat.all():
        raise InputError("every training image is of one value: there is nothing to restore\ncheck the files")
    return [f"{int(flat.sum())} training images are of one value, the first {cases['id'][flat][0]}"] if flat.any() else []


def restoration_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    preprocess: Callable[[dict], dict],
    tiling: tiles.Tiling,
    baselines: Mapping[str, Baseline],
    scale: Scale = metrics.MAXIMUM,
    structure: Scale = metrics.MAXIMUM,
    window: Scale = metrics.MAXIMUM,
    variants: Sequence[str] = (),
    augment: Callable | Augment | None = None,
    stated: str = "",
    columns: Sequence[str] | None = None,
) -> Job:
    """A Job of restoration with this task file's defaults.

    Args:
      task: `restoring`, or two Tasks `in_turn`.
      about: words of the report.
      sources, read: see `medjax.data.restored`.
      preprocess: by `medjax.tasks.restored_cases.prepare`.
      tiling: how slices are cut.
      baselines: see `medjax.tasks.restoration_baselines`.
      scale, structure: between which values PSNR and SSIM compare.
      window: between which values figures show.
      variants: names behind the slash of further phases.
      augment: of `worse` and `truth` together.
      stated: how the images came about, for the definition of PSNR.
      columns: what the network needs of whole slices, in place of tiles of images.
    """
    row = functools.partial(measure_case, scale=scale, structure=structure)
    made = tiles.examples(tiling, row) if columns is None else tiles.slices(columns, row)
    words = metrics.definitions(scale, structure, variants)
    words |= {name: stated + text for name, text in words.items() if name.partition("/")[0] == "psnr"}
    if variants:
        words[f"real_sign/{ADVERSARIAL}"] = (
            "Mean sign of the discriminator on true images of the split, -1 to 1. Far below its value on training images "
            "(real_sign in metrics.jsonl), the discriminator knows those by heart."
        )
    return Job(
        about=about._replace(definitions={**words, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=preprocess,
        augment=augment,
        measure=measure,
        baselines=baselines,
        figures=functools.partial(restoration_figures.figures, window=window, factor=tiling.factor),
        write=write,
        examples=made,
        check=check,
    )
