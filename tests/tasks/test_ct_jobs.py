"""CT of less dose and of fewer views on real slices: by patient, beside tuned denoisers, evaluated on another folder."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import medjax
from medjax import config as settings
from medjax import experiments
from medjax.formats.dicom import read_dicom
from medjax.tasks import reconstruct
from medjax.tasks.enhance import Network, Pictures, TwoPhases

pytestmark = pytest.mark.realdata
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def small(name, path, **more):
    module = experiments.load(EXPERIMENTS / f"{name}.py")
    return module, dataclasses.replace(
        module.PRESETS_OF["fast"],
        data=settings.Data(path=str(path)),
        image=Pictures(size=32, patch=16, tile=32),
        model=Network("unet", features=4, blocks=1, pixel="square"),
        train=TwoPhases(steps=3, batch_size=4, eval_every=3, checkpoint_every=3),
        **more,
    )


@pytest.mark.slow
def test_low_dose_is_restored_by_patient_and_evaluated_elsewhere(real_data, tmp_path):
    pytest.importorskip("skimage")
    files = sorted((real_data / "ct_dicom").glob("*.dcm"))
    for part, chosen in (("some", files[:40]), ("others", files[40:52])):
        (tmp_path / part).mkdir()
        for file in chosen:
            shutil.copy(file, tmp_path / part)
    module, config = small("low_dose_ct", tmp_path / "some")
    config = dataclasses.replace(config, dose=module.Dose(views=24))
    done = medjax.train(module.build(config), config, tmp_path / "run", quiet=True)
    report = done.report
    assert report["data"]["splits"]["test"]["patients"]
    patients = {
        s: {row.split(",")[1] for row in (tmp_path / "run/predictions" / f"{s}.csv").read_text().splitlines()[1:]}
        for s in ("val", "test")
    }
    assert not patients["val"] & patients["test"]
    assert {"input", "tv", "nlm"} == report["baselines"].keys()
    assert "I0 100000 (truth) and 25000" in report["definitions"]["psnr"]
    assert "-160 to 240" in report["definitions"]["ssim"]
    # The input's noise, by far the largest part of its error, is what a quarter of the dose leaves.
    assert 10 < report["baselines"]["input"]["psnr"]["value"] < 60
    written = next((tmp_path / "run" / "predictions" / "test").glob("*.dcm"))
    assert read_dicom(written).facts.hounsfield
    other = dataclasses.replace(config, data=settings.Data(path=str(tmp_path / "others")))
    again = medjax.evaluate(module.build(other), other, tmp_path / "run", out=tmp_path / "again")
    assert again["metrics"]["test"]["psnr"]["n"] <= 12
    assert again["baselines"].keys() == report["baselines"].keys()


def test_few_views_stand_beside_filtered_back_projection(real_data, tmp_path):
    pytest.importorskip("skimage")
    for file in sorted((real_data / "ct_dicom").glob("*.dcm"))[:24]:
        shutil.copy(file, tmp_path)
    module = experiments.load(EXPERIMENTS / "reconstruct_ct.py")
    config = dataclasses.replace(
        module.PRESETS_OF["fast"],
        data=settings.Data(path=str(tmp_path)),
        scan=module.Scan(size=32, views=12),
        model=reconstruct.Network("varnet", features=4, depth=1, cascades=1, structure=0.0),
        train=TwoPhases(steps=3, batch_size=4, eval_every=3, checkpoint_every=3),
    )
    done = medjax.train(module.build(config), config, tmp_path / "run", quiet=True)
    assert done.report["baselines"].keys() == {"fbp", "tv"}
    assert np.isfinite(done.report["comparisons"]["fbp"]["psnr"]["difference"])
    assert 0 < done.report["metrics"]["test"]["residual"]["value"] < 1
    assert "the rays that were read" in done.report["definitions"]["residual"]
    assert (tmp_path / "run" / "figures" / "maps.png").is_file()
