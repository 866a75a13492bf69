"""fastMRI's files in their true layout: read, trained and evaluated on, reconstructed one by one; and damaged ones."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import medjax
from medjax import config as settings
from medjax import experiments
from medjax.data.layouts import detect, open_layout
from medjax.errors import InputError
from medjax.physics import kspace as mr
from medjax.report.folder import look
from medjax.tasks.enhance import TwoPhases
from medjax.tasks.kspace_cases import Sampling
from medjax.tasks.reconstruct import Network

h5py = pytest.importorskip("h5py")
ROWS, COLUMNS, SIDE, SLICES = 40, 28, 24, 2
HEADER = (
    '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace>'
    "<matrixSize><x>40</x><y>28</y><z>1</z></matrixSize></encodedSpace><reconSpace><matrixSize><x>24</x><y>24</y><z>1</z>"
    "</matrixSize></reconSpace></encoding></ismrmrdHeader>"
)


def write_file(path, seed, *, coils=0, truth=True, mask=False, columns=COLUMNS, **changes):
    """A file as fastMRI's are: the same names, types and order of axes, a smaller matrix."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ROWS, :columns]
    image = np.stack(
        [
            (np.hypot(y - 20, x - columns / 2) < 10 + k) * 2e-4
            + 1e-4 * (np.hypot(y - rng.integers(14, 26), x - rng.integers(8, columns - 8)) < 3)
            for k in range(SLICES)
        ]
    ).astype(complex)
    if coils:
        image = image[:, None] * mr.birdcage(coils, (ROWS, columns))
    kspace = mr.to_kspace(image).astype(np.complex64)
    with h5py.File(path, "w") as file:
        file["ismrmrd_header"] = HEADER
        file["kspace"] = changes.get("kspace", kspace)
        if truth:
            whole = np.abs(image) if not coils else mr.root_sum_of_squares(image, 1)
            top, left = (ROWS - SIDE) // 2, (columns - SIDE) // 2
            inside = whole[:, top : top + SIDE, left : left + SIDE].astype(np.float32)
            file["reconstruction_rss" if coils else "reconstruction_esc"] = inside
        if mask:
            file["mask"] = mr.column_mask("random", columns, 4, 0.2, 1)
        file.attrs.update({"acquisition": "CORPD_FBK", "max": 3e-4, "norm": 1e-2, "patient_id": f"p{seed}"})


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    root = tmp_path_factory.mktemp("knee")
    for split, n in (("train", 8), ("val", 3), ("test", 2)):
        folder = root / f"singlecoil_{split}"
        folder.mkdir()
        for k in range(n):
            seed = {"train": 0, "val": 100, "test": 200}[split] + k
            write_file(folder / f"file{seed}.h5", seed, truth=split != "test", mask=split == "test")
    return root


def test_the_layout_is_known_and_told(knees):
    assert next(iter(detect(knees))) == "fastmri"
    layout = open_layout(knees)
    assert layout.holds == "k-space"
    # The published validation set is what is measured; the test set brings no truth.
    assert {split: len(source) for split, source in layout.sources.items()} == {"train": 8, "test": 3}
    example = layout.sources["train"][0]
    assert example["kspace"].shape == (SLICES, 1, ROWS, COLUMNS)
    assert example["image"].shape == (SLICES, SIDE, SIDE, 1)
    assert (example["patient"], example["view"], example["id"]) == ("p0", "CORPD_FBK", "singlecoil_train/file0")
    whole = np.abs(mr.to_image(example["kspace"][:, 0]))
    np.testing.assert_allclose(whole[:, 8:32, 2:26], example["image"][..., 0], atol=1e-9)


def test_a_run_trains_evaluates_and_reconstructs(knees, tmp_path):
    module = experiments.load(Path(__file__).parents[2] / "experiments" / "fastmri.py")
    config = dataclasses.replace(
        module.PRESETS_OF["fast"],
        data=settings.Data(path=str(knees)),
        sampling=Sampling("random", 3, 0.2),
        model=Network("unet", features=4, depth=1, structure=0.0),
        train=TwoPhases(steps=4, batch_size=2, eval_every=2, checkpoint_every=2),
    )
    config = module.resolve(config)
    assert config.shape == (1, ROWS, COLUMNS)
    job = module.build(config)
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    assert done.report["data"]["splits"]["test"]["n"] == 3
    assert done.report["metrics"]["test"]["psnr"]["value"] > 10
    assert {"psnr/slice", "residual"} <= done.report["metrics"]["test"].keys()
    # The mask of a file is that of its name, as in fastMRI.
    made = job.preprocess({k: v for k, v in open_layout(knees).sources["test"][0].items() if k != "path"})
    wanted = mr.column_mask("random", COLUMNS, 3, 0.2, tuple(map(ord, "file100.h5")))
    np.testing.assert_array_equal(made["sampled"].array[0, 0, 0], wanted)
    rows = medjax.predict(job, config, tmp_path / "run", [knees / "singlecoil_test"], out=tmp_path / "out")
    written = np.load(tmp_path / "out" / "predictions" / "file200.npy")
    assert written.shape == (SLICES, SIDE, SIDE)
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, rows["image"][0][..., 0])
    assert np.isnan(rows["psnr"]).all()


def test_what_is_in_such_a_folder_can_be_looked_at(knees, tmp_path):
    record = look(knees, tmp_path / "seen", layout="", splits=None, limit=100)
    assert record["layout"]["name"] == "fastmri"


def test_several_coils_are_read(tmp_path):
    write_file(tmp_path / "file1.h5", 1, coils=4)
    example = open_layout(tmp_path, "fastmri").sources["all"][0]
    assert example["kspace"].shape == (SLICES, 4, ROWS, COLUMNS)
    rss = mr.root_sum_of_squares(mr.to_image(example["kspace"]), 1)
    np.testing.assert_allclose(rss[:, 8:32, 2:26], example["image"][..., 0], rtol=1e-4, atol=1e-9)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.h5"):
        open_layout(tmp_path, "fastmri")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(InputError, match="damaged"):
        open_layout(tmp_path, "fastmri")
    write_file(tmp_path / "a.h5", 0, kspace=np.ones((2, ROWS), np.complex64))
    with pytest.raises(InputError, match="is expected"):
        open_layout(tmp_path, "fastmri").sources["all"][0]
    write_file(tmp_path / "a.h5", 0, kspace=np.ones((5, ROWS, COLUMNS), np.complex64))
    with pytest.raises(InputError, match="for 5 slices"):
        open_layout(tmp_path, "fastmri").sources["all"][0]
    (tmp_path / "a.h5").unlink()
    write_file(tmp_path / "a.h5", 0, truth=False)
    with pytest.raises(InputError, match="no file holds a reconstruction"):
        open_layout(tmp_path, "fastmri")


def test_volumes_of_another_shape_are_refused_by_name(knees):
    module = experiments.load(Path(__file__).parents[2] / "experiments" / "fastmri.py")
    config = dataclasses.replace(module.PRESETS_OF["fast"], data=settings.Data(path=str(knees)), shape=(1, 40, 30))
    example = dict(open_layout(knees).sources["train"][0])
    with pytest.raises(InputError, match="others are"):
        module.build(config).preprocess(example)
