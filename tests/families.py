"""One tiny Job of each family, for tests: a CNN classifier, an LSTM over padded sequences, a GAN with two optimizers."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.config import Data, Train
from medjax.core import About, Job
from medjax.data.augment import affine, image_augment, intensity
from medjax.models.resnet import ResNet
from medjax.nn import BatchNorm, Conv, Dropout
from medjax.tasks.adversarial import adversarial
from medjax.tasks.classification import calibrate, classification, decide, measure


@dataclasses.dataclass(frozen=True)
class Config:
    data: Data = Data(fractions=(0.6, 0.2, 0.2))
    train: Train = Train(steps=10, batch_size=16, eval_every=5, checkpoint_every=5)
    engine: str = "jit"


class Arrays:
    """A Source over arrays in memory."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["id"])

    def __getitem__(self, i):
        return {name: column[i] for name, column in self.columns.items()}


class SequenceClassifier(nn.Module):
    """LSTM over the first `length` steps, its last state, dropout, linear head."""

    classes: int
    features: int = 8

    @nn.compact
    def __call__(self, x, *, train):
        values, length = x["values"], x["length"]
        values = nn.Dense(self.features, use_bias=False)(values)
        values = BatchNorm()(values, train=train)
        (_, last), _ = nn.RNN(nn.OptimizedLSTMCell(self.features), return_carry=True)(values, seq_lengths=length)
        return nn.Dense(self.classes)(Dropout(0.3)(last, train=train))


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        x = nn.Dense(4 * 4 * 8)(z).reshape(-1, 4, 4, 8)
        x = nn.relu(BatchNorm()(x, train=train))
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        return nn.sigmoid(Conv(1, (3, 3))(x))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.leaky_relu(Conv(8, (3, 3), 2)(x), 0.2)
        x = Dropout(0.2)(x, train=train)
        x = nn.leaky_relu(BatchNorm()(Conv(8, (3, 3), 2, use_bias=False)(x), train=train), 0.2)
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


class Family(NamedTuple):
    job: Job
    config: Config


def about(monitor, higher=True, classes=("no", "yes")):
    return About("classification", "Which class?", classes, monitor, "arrays", higher_is_better=higher)


def classifier_job(task, source, augment=None):
    return Job(
        about=about("auroc"),
        task=task,
        sources=lambda: {"all": source},
        read=lambda paths: source,
        preprocess=lambda example: example,
        augment=augment,
        measure=lambda rows, cases: measure(rows, cases, classes=("no", "yes")),
        baselines={},
        figures=lambda rows, cases, others: {},
        write=lambda rows, cases: {},
        calibrate=calibrate,
        decide=decide,
    )


def names(n):
    return np.array([f"case{i:03d}" for i in range(n)])


def cnn(seed=0, n=96):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    image = rng.integers(0, 160, (n, 16, 16, 1)) + 80 * label[:, None, None, None] * (np.arange(16) < 8)[None, :, None, None]
    source = Arrays(id=names(n), label=label, image=image.astype(np.uint8))
    task = classification(ResNet(2, width=4, blocks=(1, 1), dropout=0.3), optax.sgd(0.05))
    augment = image_augment(affine(rotate=10, shift=0.05, flip=0.5), intensity(gamma=0.2, noise=0.05))
    return Family(classifier_job(task, source, augment), Config())


def lstm(seed=0, n=96, longest=12):
    rng = np.random.default_rng(seed)
    label, length = rng.integers(0, 2, n), rng.integers(3, longest + 1, n)
    signal = rng.normal(size=(n, longest, 3)).astype(np.float32) + label[:, None, None] * 0.7
    signal[np.arange(longest)[None, :] >= length[:, None]] = 0
    source = Arrays(id=names(n), label=label, signal=signal, length=length)
    task = classification(
        SequenceClassifier(2), optax.sgd(0.05), inputs=lambda batch: {"values": batch["signal"], "length": batch["length"]}
    )
    return Family(classifier_job(task, source), Config())


def gan(seed=0, n=96):
    rng = np.random.default_rng(seed)
    source = Arrays(id=names(n), label=np.full(n, -1), image=rng.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8))
    task = adversarial(
        Generator(),
        Discriminator(),
        {"generator": optax.sgd(0.02), "discriminator": optax.sgd(0.01)},
        latent=5,
        inputs=lambda batch: batch["image"].astype(jnp.float32) / 255,
    )
    job = classifier_job(task, source)._replace(
        about=about("gap", higher=False, classes=()),
        measure=lambda rows, cases: {"gap": float((rows["real_logit"] - rows["fake_logit"]).mean())},
        calibrate=lambda rows, cases: {},
        decide=lambda point, rows: rows,
    )
    return Family(job, Config())


FAMILIES = {"cnn": cnn, "lstm": lstm, "gan": gan}


def batch_of(family, n=16):
    """The family's first n cases as one host batch."""
    columns = {name: column[:n] for name, column in family.job.sources()["all"].columns.items() if name != "id"}
    return {**columns, "mask": np.ones(n, bool)}


def relative_difference(a, b):
    """|a - b| / |b| of two trees as one vector."""
    a, b = (np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)] or [np.zeros(1)]) for t in (a, b))
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


def largest_difference(a, b):
    """`relative_difference` of the leaf where it is largest."""
    return max(jax.tree.leaves(jax.tree.map(relative_difference, a, b)), default=0.0)
