"""Pairs of a worse and a better image: found, trained and evaluated on, and refused where they do not fit."""

import numpy as np
import pytest
from PIL import Image
from restoring import job_of, phantom, settings

import medjax
from medjax.data.layouts import detect, open_layout
from medjax.errors import InputError
from medjax.report.folder import look
from medjax.tasks.enhance import TwoPhases, Worse
from medjax.tasks.restoration_baselines import bicubic


def write_pairs(root, n=16, factor=2, names=("input", "target")):
    for name in names:
        (root / name).mkdir(parents=True)
    for k in range(n):
        better = phantom(k, (40, 44))
        worse = better.reshape(40 // factor, factor, 44 // factor, factor).mean((1, 3)).astype(np.uint16)
        Image.fromarray(worse).save(root / names[0] / f"case{k:02d}.png")
        Image.fromarray(better).save(root / names[1] / f"case{k:02d}.png")
    return root


def test_a_run_learns_from_pairs_as_they_are(tmp_path):
    root = write_pairs(tmp_path / "pairs")
    assert next(iter(detect(root))) == "paired_images"
    assert open_layout(root).holds == "pairs of images"
    config = settings(root, train=TwoPhases(steps=2, batch_size=16, eval_every=2, checkpoint_every=2))
    done = medjax.train(job_of(config), config, tmp_path / "run", quiet=True)
    assert done.report["data"]["splits"]["train"]["n"] < 16  # fewer images than a batch are drawn again
    assert done.report["data"]["splits"]["test"]["n"] >= 2
    # Bicubic interpolation of the very files.
    rows = (tmp_path / "run" / "predictions" / "test.csv").read_text().splitlines()[1:]
    errors = []
    for name in (row.split(",")[0].rsplit("/", 1)[-1] for row in rows):
        worse, better = (np.asarray(Image.open(root / part / f"{name}.png")).astype(float) for part in ("input", "target"))
        found = bicubic(worse[None, ..., None].astype(np.float32), factor=2)[0, ..., 0]
        errors.append(10 * np.log10(better.max() ** 2 / np.square(found - better).mean()))
    assert done.report["baselines"]["bicubic"]["psnr"]["value"] == pytest.approx(np.mean(errors), abs=1e-3)
    assert look(root, tmp_path / "seen", layout="", splits=None, limit=100)["layout"]["name"] == "paired_images"


def test_splits_may_lie_above_the_pairs(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        write_pairs(tmp_path / split, n, names=("lq", "gt"))
    sources = open_layout(tmp_path).sources
    assert {split: len(source) for split, source in sources.items()} == {"train": 3, "test": 2}
    assert sources["train"][0]["target"].shape == (1, 40, 44, 1)


def test_pairs_that_do_not_fit_are_refused(tmp_path):
    root = write_pairs(tmp_path, 2)
    config = settings(root, worse=Worse(factor=4))
    example = {k: v for k, v in open_layout(root).sources["all"][0].items() if k != "path"}
    with pytest.raises(InputError, match="2 times as large, not 4"):
        job_of(config).preprocess(dict(example))
    Image.fromarray(phantom(0, (41, 44))).save(root / "target" / "case00.png")
    with pytest.raises(InputError, match=r"case00\.png: is 41 x 44.*20 x 22"):
        open_layout(root).sources["all"][0]
    (root / "target" / "case01.png").rename(root / "target" / "other.png")
    with pytest.raises(InputError, match="has no partner"):
        open_layout(root)
    with pytest.raises(InputError, match="no folders of worse"):
        open_layout(root / "input", "paired_images")
