"""Which bleedings does this slice of a head CT show? RSNA Intracranial Haemorrhage, DICOM slices in three windows."""

from dataclasses import dataclass

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.tasks.imaging import Augmentation, Image, Network, image_job, resolve
from medjax.tasks.imaging import Config as ImageConfig

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "classify an image",
    "data": "RSNA Intracranial Haemorrhage, stage 2 (Kaggle, 752,803 slices)",
    "needs": "--data.path FOLDER and medjax[imaging]",
}
# Brain, subdural and bone, as readers set them (centre, width).
WINDOWS = ((40.0, 80.0), (75.0, 215.0), (600.0, 2800.0))


@dataclass(frozen=True)
class Config(ImageConfig):
    """Haemorrhage by type, several to a slice."""

    layout: str = "rsna_haemorrhage"
    data: Data = Data(sampling="classes", near_copies="off")
    image: Image = Image(size=128, form="grey", windows=WINDOWS)
    model: Network = Network(name="resnet18", width=32, dropout=0.2)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.05)
    augment: Augmentation = Augmentation(rotate=15, scale=0.1, shift=0.05, gamma=0, gain=0.1)
    train: Train = Train(steps=2000, batch_size=32, eval_every=250, checkpoint_every=250)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=256, form="grey", windows=WINDOWS),
        model=Network(name="resnet50", dropout=0.2),
        train=Train(steps=60_000, batch_size=64, eval_every=5000, checkpoint_every=1000),
    ),
}


def build(config: Config) -> Job:
    """The job: six labels, any of them and their types."""
    return image_job(config, question="Which bleedings does this head CT show?", name="RSNA Intracranial Haemorrhage")


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
