"""Where are the nodules on these slices of lung CT? COCO's form, or any other layout of pictures with boxes."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.boxes import Augmentation, Image, Inference, Network, box_job, resolve
from medjax.tasks.boxes import Config as BoxConfig

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "detect in an image",
    "data": "yours: --data.path FOLDER with annotations/instances_{train,val,test}.json and images/",
    "needs": "slices of lung CT with boxes",
}


@dataclass(frozen=True)
class Config(BoxConfig):
    """Lung nodules on CT slices."""

    image: Image = Image(size=128)
    model: Network = Network(width=16, stem=2, strides=(4, 8), anchors=3, features=48)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.02)
    # Crops that were cut about their nodules would teach where to look: shifted far, they do not.
    augment: Augmentation = Augmentation(shift=0.4, scale=(0.7, 1.4), flip=(0.5, 0.5), transpose=0.5)
    inference: Inference = Inference(mirror=(0, 1), hit=0.3, overlap=0.3)
    train: Train = Train(steps=1600, batch_size=16, eval_every=200, eval_cases=300, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=256),
        model=Network(name="resnet50", stem=4, strides=(4, 8, 16, 32), features=256, depth=4),
        train=Train(steps=20_000, batch_size=32, eval_every=1000, eval_cases=2000, checkpoint_every=500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: nodules, by boxes."""
    return box_job(config, question="Where are the nodules on this CT slice?", name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
