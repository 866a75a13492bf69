"""Segment a data set in nnU-Net's raw format, with its own splits, planned from the data."""

from dataclasses import dataclass

from medjax.core import Job
from medjax.tasks.masks import resolve
from medjax.tasks.volume_presets import VolumeConfig, volume_job, volume_presets

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "segment an image",
    "data": "a folder of nnUNet_raw, such as Dataset004_Hippocampus",
    "needs": "--data.path FOLDER and medjax[imaging]",
}


@dataclass(frozen=True)
class Config(VolumeConfig):
    """A data set of nnU-Net."""

    layout: str = "nnunet_raw"


PRESETS_OF = volume_presets(Config)


def build(config: Config) -> Job:
    """The job: the data's classes at each voxel."""
    return volume_job(config)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
