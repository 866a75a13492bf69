"""Low and full doses in the folders of the AAPM-Mayo challenge and of TCIA: paired by patient, trained and evaluated on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import medjax
from medjax import config as settings
from medjax import experiments
from medjax.data.layouts import detect, open_layout
from medjax.errors import InputError
from medjax.formats.dicom import read_dicom
from medjax.tasks.enhance import Network, Pictures, TwoPhases

pydicom = pytest.importorskip("pydicom")
NAMES = {
    "mayo": ("full_3mm", "quarter_3mm", "IMA"),
    "tcia": ("1.000000-Full Dose Images-9", "1.000000-Low Dose Images-7", "dcm"),
}


def write_series(folder, volume, patient, ending):
    """A CT series of int16 with the slope and intercept that scanners write, a file a slice."""
    folder.mkdir(parents=True)
    uid = pydicom.uid.generate_uid()
    for z, plane in enumerate(volume):
        ds = pydicom.Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID, ds.Modality = uid, pydicom.uid.generate_uid(), patient, "CT"
        ds.Rows, ds.Columns = plane.shape
        ds.PixelSpacing, ds.SliceThickness = ["0.7", "0.7"], "3"
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3.0 * z]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.PixelData = (np.rint(plane) + 1024).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        pydicom.dcmwrite(folder / f"{patient}.CT.{z:04d}.{ending}", ds, enforce_file_format=True)


def write_patients(root, n=12, kind="mayo"):
    full, low, ending = NAMES[kind]
    for k in range(n):
        rng = np.random.default_rng(k)
        clean = ndimage.gaussian_filter(rng.normal(size=(2, 32, 32)), (0, 3, 3)) * 600
        where = root / f"L{k:03d}" / ("study" if kind == "tcia" else "")
        for name, noise in ((full, 5), (low, 30)):
            write_series(where / name, np.clip(clean + noise * rng.normal(size=clean.shape), -1000, 2000), f"L{k:03d}", ending)
    return root


@pytest.mark.parametrize("kind", NAMES)
def test_doses_are_paired_by_patient(tmp_path, kind):
    write_patients(tmp_path, 2, kind)
    assert next(iter(detect(tmp_path))) == "ldct"
    source = open_layout(tmp_path).sources["all"]
    assert [source[i]["patient"] for i in range(2)] == ["L000", "L001"]
    assert source[0]["image"].shape == source[0]["target"].shape == (2, 32, 32, 1)
    assert np.std(source[0]["image"].astype(float) - source[0]["target"]) == pytest.approx(30, rel=0.1)


def test_a_run_trains_and_evaluates_on_them(tmp_path):
    root = write_patients(tmp_path / "mayo")
    module = experiments.load(Path(__file__).parents[2] / "experiments" / "low_dose_ct.py")
    config = dataclasses.replace(
        module.PRESETS_OF["fast"],
        data=settings.Data(path=str(root)),
        image=Pictures(patch=16, tile=32),
        model=Network("unet", features=4, blocks=1, pixel="square"),
        train=TwoPhases(steps=2, batch_size=2, eval_every=2, checkpoint_every=2),
    )
    done = medjax.train(module.build(config), config, tmp_path / "run", quiet=True)
    assert done.report["ci_unit"] in ("patient", "case")
    assert done.report["baselines"]["input"]["psnr"]["value"] == pytest.approx(20 * np.log10(2000 / 30.4), abs=1)
    assert "psnr/slice" in done.report["metrics"]["test"]
    files = sorted((tmp_path / "run" / "predictions" / "test").rglob("*.dcm"))
    assert len(files) == 2 * done.report["data"]["splits"]["test"]["n"]
    assert read_dicom(files[0]).facts.hounsfield


def test_a_dose_without_its_other_is_refused(tmp_path):
    write_patients(tmp_path, 1)
    (tmp_path / "L000" / "quarter_1mm").mkdir()
    with pytest.raises(InputError, match="no other dose of 1mm"):
        open_layout(tmp_path, "ldct")
    with pytest.raises(InputError, match="no pairs"):
        open_layout(tmp_path / "L000" / "full_3mm", "ldct")
