"""Does training data from a GAN help a classifier? One Task: a GAN first, then three classifiers on the same batches.

The arms are `real` (images as they are), `classic` (random changes of them) and `gan` (the same changes, and a share of each
batch replaced by generated images of the same classes). All begin at the same weights and take as many updates, of as many
images, at the same rates, so that nothing differs but what they see.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows
from medjax.config import Decide, Train
from medjax.core import AUGMENT, LATENT, About, Batch, Job, State, Task, example_keys, purpose_keys
from medjax.data import augment
from medjax.ema import averaged
from medjax.models.resnet import ResNet
from medjax.tasks import decisions, generation_figures
from medjax.tasks.classification import classification, classification_job
from medjax.tasks.generate import Find, make_task, resolve
from medjax.tasks.generation import remembered, to_bytes


@dataclasses.dataclass(frozen=True)
class GanFirst(Train):
    """The training loop: a GAN, then the classifiers."""

    steps: int = 1000
    """Updates of each classifier."""
    gan_steps: int = 1000
    """Updates of the GAN, before."""
    PLANNED: typing.ClassVar[tuple[str, ...]] = ("steps",)

    def total(self) -> int:
        """Updates of both phases."""
        return self.steps + self.gan_steps


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What is trained three times."""

    width: int = 16
    """Channels of the first stage of a residual network."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Blocks in each stage."""
    dropout: float = 0.3
    """Rate before the last layer."""
    smoothing: float = 0.1
    """Label smoothing."""
    share: float = 0.5
    """Of each batch of the third arm that is generated."""
    ema: float = 0.995
    """Decay of the moving average of the generator's weights, which makes those images."""


ARMS = ("real", "classic", "gan")
GAN, REPLACED = "generator", 8  # a place in the State; a purpose of keys, after those of `adversarial`
COMPARED = ("auroc", "sensitivity", "specificity", "balanced_accuracy")


def trial(
    gan: Task, classify: Task, *, at: int, latent: int, share: float, augment: Callable[[jax.Array, Batch], Batch]
) -> Task:
    """The GAN for `at` updates, then the three classifiers; the generator is used by its moving average where it has one.

    Args:
      gan: conditional on the batch's `label`, from noise of length `latent`.
      classify: a classification; its rows have `score`.
      at: updates of the GAN.
      latent: length of the noise.
      share: of each batch of the arm `gan` that is generated, drawn by example.
      augment: (key, example) -> example.

    Returns:
      Task whose rows are `score`, of the arm `gan`, `score/classic` and `score/real`.
    """

    def part(state: State, name: str) -> State:
        return state.replace(params=state.params[name], extra=state.extra[name], opt=state.opt[name])

    def put(state: State, parts: Mapping[str, State]) -> State:
        changed: dict[str, Any] = {
            field: {**getattr(state, field), **{name: getattr(p, field) for name, p in parts.items()}}
            for field in ("params", "extra", "opt")
        }
        return state.replace(**changed)

    def init(key: jax.Array, batch: Batch) -> State:
        first = gan.init(key, batch)
        arms = {name: jax.tree.map(jnp.copy, classify.init(jax.random.fold_in(key, 1), batch)) for name in ARMS}
        return put(first.replace(params={}, extra={}, opt={}), {GAN: first, **arms})

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        def play() -> tuple[State, dict[str, jax.Array]]:
            new, logs = gan.update(part(state, GAN), batch, axis)
            return put(state, {GAN: new}), logs

        def learn() -> tuple[State, dict[str, jax.Array]]:
            keys = example_keys(state.key, state.step, len(batch["mask"]))
            z = jax.vmap(lambda key: jax.random.normal(key, (latent,)))(purpose_keys(keys, LATENT))
            made = to_bytes(gan.predict(part(state, GAN), {**batch, "latent": z})["image"])
            taken = jax.vmap(jax.random.uniform)(purpose_keys(keys, REPLACED)) < share
            taken = (taken & (batch["label"] >= 0)).reshape(-1, 1, 1, 1)
            mixed = {**batch, "image": jnp.where(taken, made, batch["image"])}
            changed = [jax.vmap(augment)(purpose_keys(keys, AUGMENT), b) for b in (batch, mixed)]
            done = {n: classify.update(part(state, n), b, axis) for n, b in zip(ARMS, (batch, *changed))}
            logs = {f"loss/{name}": of["loss"] for name, (_, of) in done.items()}
            logs |= {name: jnp.mean(jnp.array([of[name] for _, of in done.values()])) for name in ("loss", "grad_norm")}
            return put(state, {name: new for name, (new, _) in done.items()}), logs

        names = [jax.eval_shape(turn)[1] for turn in (play, learn)]
        every = {name: jnp.zeros(x.shape, x.dtype) for logs in names for name, x in logs.items()}

        def filled(turn: Callable) -> Callable:
            def call() -> tuple[State, dict[str, jax.Array]]:
                new, logs = turn()
                return new, {**every, **logs}

            return call

        new, logs = jax.lax.cond(state.step < at, filled(play), filled(learn))
        return new.replace(step=state.step + 1), logs

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        found = {name: classify.predict(part(state, name), batch)["score"] for name in ARMS}
        return {"score": found["gan"], "score/classic": found["classic"], "score/real": found["real"]}

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        return predict(state, batch)

    return Task(init, update, evaluate, predict)


def trial_experiment(
    config: Any, *, name: str, licence: str = "", find: Find, crop: Callable[[np.ndarray], tuple] | None = None
) -> Job:
    """The Job of a trial as an experiment configures it.

    Args:
      config: settings of a generation, with `classifier`, `optimizer` and `decide` besides, and `GanFirst` for its loop.
      name, licence: of the data set.
      find: config -> Layout.
      crop: see `medjax.tasks.images.image_preprocess`.

    Raises:
      InputError: one class alone.
    """
    config = resolve(config, find)
    of, train, names = config.classifier, config.train, config.data.classes
    colour, later = config.image.form == "colour", train.total() - train.gan_steps
    alone = dataclasses.replace(config, train=dataclasses.replace(train, steps=0))  # its rates end with the GAN's updates
    gan = make_task(alone, len(names), 3 if colour else 1)
    gan = averaged(remembered(gan, latent=config.model.latent, classes=len(names), steps=train.gan_steps), of.ema)
    model = ResNet(len(names), of.width, of.blocks, stem_stride=1 if config.image.size <= 32 else 2, dropout=of.dropout)
    task = trial(
        gan,
        classification(model, config.optimizer.make(later), smoothing=of.smoothing),
        at=train.gan_steps,
        latent=config.model.latent,
        share=of.share,
        augment=augment.image_augment(
            augment.affine(rotate=15, scale=0.15, shift=0.06, flip=0.5), augment.intensity(gamma=0.4, gain=0.3, noise=0.02)
        ),
    )
    return trial_job(
        task,
        about=About("classification", "Do generated images help a classifier?", names, "", name, licence),
        share=of.share,
        rule=config.decide,
        steps=train.gan_steps,
        sources=lambda: find(config).sources,
        size=config.image.size,
        channels="colour" if colour else "grey",
        crop=crop,
    )


def _arms(rows: Rows) -> list[str]:
    return [name.partition("/")[2] for name in rows if name.startswith("score/")]


def calibrate(rows: Rows, cases: Cases, *, rule: Decide) -> dict[str, np.ndarray]:
    """An operating point for each arm, of its own validation scores: NAME of the arm `gan`, NAME/ARM of the others."""
    point = decisions.calibrate({"score": rows["score"]}, cases, rule=rule)
    for arm in _arms(rows):
        own = decisions.calibrate({"score": rows[f"score/{arm}"]}, cases, rule=rule)
        point |= {f"{name}/{arm}": value for name, value in own.items()}
    return point


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """The rows of each arm at its own operating point, as `decisions.decide`."""
    found = {**rows, **decisions.decide(point, {"score": rows["score"]})}
    for arm in _arms(rows):
        own = {name.removesuffix(f"/{arm}"): value for name, value in point.items() if name.endswith(f"/{arm}")}
        decided = decisions.decide(own, {"score": rows[f"score/{arm}"]})
        found |= {f"{name}/{arm}": value for name, value in decided.items()}
    return found


def measure(rows: Rows, cases: Cases, *, classes: tuple[str, ...]) -> dict[str, float]:
    """What is compared, of the arm `gan`, METRIC/ARM of the others, and METRIC_gain, `gan` less `classic` on the same cases."""
    found = _compared(rows["score"], rows["pred"], cases, classes)
    arms = {arm: _compared(rows[f"score/{arm}"], rows[f"pred/{arm}"], cases, classes) for arm in _arms(rows)}
    for arm, values in arms.items():
        found |= {f"{name}/{arm}": value for name, value in values.items()}
    if arms:
        found |= {f"{name}_gain": found[name] - arms["classic"][name] for name in COMPARED}
        found |= {f"{name}_gain/classic": arms["classic"][name] - arms["real"][name] for name in COMPARED}
    return found


def _compared(score: np.ndarray, pred: np.ndarray, cases: Cases, classes: tuple[str, ...]) -> dict[str, float]:
    values = metrics.classification(cases["label"], score, pred, classes)
    return {name: values[name] for name in COMPARED}


def tell(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sentence that a report begins with: whether generated images helped, by the paired intervals.

    Args:
      found: {metric: {"value", "ci95"}} of the split that counts.
    """
    said, words = [], []
    for name in ("auroc", "sensitivity", "specificity"):
        entry = found.get(f"{name}_gain")
        if entry is None:
            continue
        ends = entry.get("ci95")
        certain = f" (95 % CI {ends[0]:+.3f} to {ends[1]:+.3f})" if ends else " (no interval)"
        said.append(f"{name} {entry['value']:+.3f}{certain}")
        words.append("better" if ends and ends[0] > 0 else "worse" if ends and ends[1] < 0 else "unclear")
    if not said:
        return []
    openings = {
        (False, False): "No gain from generated images is shown",
        (True, False): "Generated images helped",
        (False, True): "Generated images did harm",
        (True, True): "Generated images helped in one way and harmed in another",
    }
    opening = openings["better" in words, "worse" in words]
    return [f"{opening}: beside real images with classic augmentation, adding them changed {', '.join(said)}."]


def definitions(share: float) -> dict[str, str]:
    """What the further measures mean."""
    of = f"real images with classic augmentation and, for {share:.0%} of each batch, generated images of the same classes"
    words = {}
    for name in COMPARED:
        words[f"{name}_gain"] = (
            f"{name} of a classifier trained on {of}, less that of one trained without generated ones; paired."
        )
        words[f"{name}_gain/classic"] = f"{name} with classic augmentation, less that of real images as they are; paired."
        words[f"{name}/classic"] = f"{name} of the classifier trained on real images with classic augmentation."
        words[f"{name}/real"] = f"{name} of the classifier trained on real images as they are."
    return words


def trial_job(task: Task, *, about: About, share: float, rule: Decide, steps: int, **options: Any) -> Job:
    """A Job of a trial.

    Args:
      task: from `trial`.
      about: words of the report; its classes are the labels' names.
      share: as of `trial`.
      rule: how scores become decisions.
      steps: of the GAN, for the figure of its images.
      **options: further ones of `classification_job`: sources, size, crop, channels, baselines.
    """
    job = classification_job(task, about=about, decide=rule, **options)

    def explain(state: State, rows: Rows, cases: Cases) -> dict[str, Any]:
        return generation_figures.course(state.replace(extra=state.extra[GAN]), rows, cases, steps=steps)

    return job._replace(
        about=job.about._replace(definitions={**job.about.definitions, **definitions(share)}),
        augment=None,
        measure=lambda rows, cases: measure(rows, cases, classes=about.classes),
        calibrate=lambda rows, cases: calibrate(rows, cases, rule=rule),
        decide=decide,
        explain=explain,
        tell=tell,
    )
