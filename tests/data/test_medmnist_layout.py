import make_layouts as make
import numpy as np
import pytest
from toy import fails

from medjax.data.layouts import open_layout


@pytest.mark.parametrize(
    ("flag", "size", "kind", "shape", "classes"),
    [
        ("pneumoniamnist", 28, "single", (28, 28), 2),
        ("pathmnist", 28, "single", (28, 28, 3), 9),
        ("chestmnist", 64, "multi", (64, 64), 14),
        ("retinamnist", 28, "ordinal", (28, 28, 3), 5),
        ("organmnist3d", 28, "single", (28, 28, 28), 11),
        ("nodulemnist3d", 28, "single", (28, 28, 28), 2),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_medmnist_gives_the_arrays_of_its_file(tmp_path, flag, size, kind, shape, classes, packed):
    file = make.write_medmnist(tmp_path, flag, n=(7, 3, 4), size=size, packed=packed)
    layout = open_layout(file)
    assert (layout.kind, len(layout.classes)) == (kind, classes)
    with np.load(file) as truth:
        for split, source in layout.sources.items():
            assert len(source) == len(truth[f"{split}_labels"])
            for i in (len(source) - 1, *range(len(source))):
                example = source[i]
                assert example["id"] == f"{split}/{i:05d}"
                assert example["image"].shape == shape
                np.testing.assert_array_equal(example["image"], truth[f"{split}_images"][i])
                np.testing.assert_array_equal(np.atleast_1d(example["label"]), truth[f"{split}_labels"][i])


def test_a_large_medmnist_file_is_unpacked_in_parts(tmp_path, monkeypatch):
    from medjax.data.layouts import medmnist

    monkeypatch.setattr(medmnist, "_BLOCK", 3 * 28 * 28)
    monkeypatch.setattr(medmnist, "_BLOCKS", 2)
    file = make.write_medmnist(tmp_path, n=(50, 3, 4))
    source = open_layout(file).sources["train"]
    with np.load(file) as truth:
        images = truth["train_images"]
    order = [*range(50), 49, 3, 3, 2, 30, 31, 29, 28, 0]
    for i in order:
        np.testing.assert_array_equal(source[i]["image"], images[i])
        assert len(source.images._blocks) <= 2


def test_medmnist_under_another_name_has_numbers_as_classes(tmp_path):
    file = make.write_medmnist(tmp_path, labels=4)
    assert open_layout(file.rename(tmp_path / "download.npz")).classes == ("0", "1", "2", "3")
    fails(lambda: open_layout(tmp_path / "download.npz", "chexpert"), "train.csv")


def test_names_of_every_medmnist_set():
    from medjax.data.layouts.medmnist import CLASSES

    counts = {"path": 9, "chest": 14, "derma": 7, "oct": 4, "pneumonia": 2, "retina": 5, "breast": 2, "blood": 8, "tissue": 8}
    counts |= {"organa": 11, "organc": 11, "organs": 11}
    volumes = {"organ": 11, "nodule": 2, "adrenal": 2, "fracture": 3, "vessel": 2, "synapse": 2}
    expected = {f"{name}mnist": n for name, n in counts.items()} | {f"{name}mnist3d": n for name, n in volumes.items()}
    assert {flag: len(names) for flag, names in CLASSES.items()} == expected
    assert all("/" not in name for names in CLASSES.values() for name in names)


def test_npz_that_is_no_medmnist(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 28, 28), np.uint8))
    fails(lambda: open_layout(tmp_path / "x.npz", "medmnist"), "x.npz", "is not a MedMNIST file")
    made = {f"{split}_{kind}": np.zeros((3, 28, 28) if kind == "images" else (3, 1), np.uint8)
            for split in ("train", "val", "test") for kind in ("images", "labels")}  # fmt: skip
    for name, value in {
        "train_images": np.zeros((3, 28, 28), np.float32),
        "val_images": np.zeros((4, 28, 28), np.uint8),
        "test_labels": np.zeros((3, 2), np.uint8),
        "train_labels": np.array([[0], [1], [7]], np.uint8),
        "val_labels": np.array([[None]] * 3, object),
    }.items():
        np.savez(tmp_path / "pneumoniamnist.npz", **{**made, name: value})
        fails(lambda: open_layout(tmp_path / "pneumoniamnist.npz", "medmnist"), "pneumoniamnist.npz")
    file = make.write_medmnist(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    fails(lambda: open_layout(file, "medmnist"), file)


@pytest.mark.parametrize("shape", [(3, 28, 28, 2), (3, 28, 28, 4), (3, 28, 28, 1), (3, 784), (3, 28, 28, 28, 3)])
def test_a_number_of_channels_that_no_picture_has_is_told(tmp_path, shape):
    """Two or four channels are not the slices of a volume."""
    made = {f"{split}_{kind}": np.zeros((3, 28, 28, 3) if kind == "images" else (3, 1), np.uint8)
            for split in ("train", "val", "test") for kind in ("images", "labels")}  # fmt: skip
    np.savez(tmp_path / "x.npz", **{**made, "val_images": np.zeros(shape, np.uint8)})
    fails(lambda: open_layout(tmp_path / "x.npz", "medmnist"), "x.npz: val_images", str(list(shape)), "[n, H, W, 3]")


def test_a_damaged_medmnist_member_is_told_when_it_is_read(tmp_path):
    file = make.write_medmnist(tmp_path)
    data = bytearray(file.read_bytes())
    at = data.index(b"train_images") + 3000
    data[at : at + 64] = bytes(64)
    file.write_bytes(bytes(data))
    fails(lambda: open_layout(file).sources["train"][29], file, "train_images")


@pytest.mark.realdata
def test_the_real_pneumoniamnist(real_data):
    layout = open_layout(real_data / "medmnist" / "pneumoniamnist.npz")
    assert {split: len(source) for split, source in layout.sources.items()} == {"train": 3882, "val": 524, "test": 624}
    assert layout.classes == ("normal", "pneumonia")
