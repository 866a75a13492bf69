import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from toy import fails

from medjax.data.layouts import detect, open_layout
from medjax.formats.grid import Grid

sys.path.append(str(Path(__file__).parents[1] / "formats"))

import make_series as make
from make_dicom import dicom, write
from pydicom.uid import RLELossless

SHAPE = (4, 8, 10)
OBLIQUE = (*make.tilted()[0], *make.tilted()[1])
BOX = np.array([(2, 3), (2, 7), (5, 7), (5, 3)])  # corners (row, column) of what is labelled, by half-open rule rows 2-4


def volume(seed):
    return np.random.default_rng(seed).integers(-1000, 3000, SHAPE, dtype=np.int16)


def box(value=1, at=1):
    labels = np.zeros(SHAPE, np.uint8)
    labels[at, 2:5, 3:7] = value
    return labels


def one_hot(labels, count):
    return np.stack([labels == k for k in range(1, count + 1)], -1).astype(np.uint8)


def contour(at=1, corners=BOX, **geometry):
    return make.to_mm(np.column_stack([np.full(len(corners), at), corners]), **geometry)


def nifti(path, labels, **geometry):
    """Stored labels as a NIfTI file in the order and orientation of most: [column, row, slice], reversed columns."""
    origin, *steps = make.to_mm([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)], **geometry) * (-1, -1, 1)
    across, down, through = (step - origin for step in steps)
    affine = np.eye(4)
    affine[:3] = np.stack([-across, down, through, origin + (SHAPE[2] - 1) * across], 1)
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0)[::-1], affine), path)
    return path


def seg_case(folder, seed=0, labels=None, names=("liver", "tumour"), **geometry):
    files = make.write_series(folder, volume(seed), **geometry)
    labels = box() + box(2, 3) if labels is None else labels
    make.write_seg(folder / "seg.dcm", files, one_hot(labels, len(names)), list(names))
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three cases: a SEG beside its slices, an RTSTRUCT in a tree of series, a compressed series with an unlabelled SEG."""
    root = tmp_path_factory.mktemp("masks")
    seg_case(root / "a", PatientID="PA", orientation=OBLIQUE)
    files = make.write_series(root / "b" / "study" / "ct", volume(1), PatientID="PB")
    make.write_series(root / "b" / "study" / "other", volume(1)[:2], PatientID="PB")
    (root / "b" / "study" / "rt").mkdir()
    drawn = {"tumour": [contour(2)], "spleen": [contour(0), contour(0, BOX[:, ::-1])], "marker": []}
    make.write_rtstruct(root / "b" / "study" / "rt" / "rt.dcm", files, drawn)
    seg_case(root / "c" / "x", 2, labels=np.zeros(SHAPE, np.uint8), names=("liver",), syntax=RLELossless, PatientID="PC")
    (root / "notes").mkdir()
    return root


def examples(layout):
    return {
        example["id"]: example for source in layout.sources.values() for example in map(source.__getitem__, range(len(source)))
    }


def grid_of(example):
    flips, axes = (tuple(x.tolist()) for x in (example["flips"], example["axes"]))
    return Grid(example["mask"].shape, example["affine"], axes, flips, tuple(example["spacing"]))


def test_cases_are_found_with_their_masks_and_classes(folder):
    assert next(iter(detect(folder))) == "dicom_masks"
    layout = open_layout(folder)
    assert (layout.kind, layout.classes) == ("masks", ("background", "liver", "spleen", "tumour"))
    assert "3 DICOM series" in layout.about
    found = examples(layout)
    assert list(found) == ["a", "b", "c"]
    assert [layout.sources["all"].case_id(i) for i in range(3)] == ["a", "b", "c"]
    for example, seed, key in zip(found.values(), range(3), "abc", strict=True):
        grid = grid_of(example)
        assert (example["patient"], example["path"], example["form"]) == (f"P{key.upper()}", str(folder / key), "dicom")
        assert (example["sex"], example["age"]) == ("F", 61.0)
        assert example["image"].shape == (*example["mask"].shape, 1)
        np.testing.assert_array_equal(grid.to_stored(example["image"][..., 0]), volume(seed))
        assert [example[name].dtype for name in ("mask", "label", "affine", "axes", "flips", "spacing")] == [
            np.dtype(x) for x in ("u1", "i1", "f8", "i1", "?", "f8")
        ]
    assert {key: example["label"].tolist() for key, example in found.items()} == {
        "a": [1, -1, 1],
        "b": [-1, 1, 1],
        "c": [0, -1, -1],
    }
    masks = {key: grid_of(example).to_stored(example["mask"]) for key, example in found.items()}
    np.testing.assert_array_equal(masks["a"], box(1, 1) + box(3, 3))
    spleen = (box(2, 0)[0] > 0) ^ np.pad(np.ones((4, 3), bool), ((3, 1), (2, 5)))
    np.testing.assert_array_equal(masks["b"], np.stack([2 * spleen, 0 * spleen, box(3, 2)[2], 0 * spleen]))
    assert not masks["c"].any()


def test_chosen_classes_and_their_order(folder):
    for classes in (("tumour", "liver"), ("Background", "tumour", "liver")):
        layout = open_layout(folder, classes=classes)
        assert layout.classes == ("background", "tumour", "liver")
        found = examples(layout)
        np.testing.assert_array_equal(grid_of(found["a"]).to_stored(found["a"]["mask"]), box(2, 1) + box(1, 3))
        assert [found[key]["label"].tolist() for key in "abc"] == [[1, 1], [1, -1], [-1, 0]]
    fails(lambda: open_layout(folder, classes=("liver", "tumor")), "no mask has the class 'tumor'", "'tumour'")
    fails(lambda: open_layout(folder, classes=("liver", "liver")), "2 classes")


def test_identity_changes_with_files_and_options(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)

    def identity(**options):
        return list(open_layout(copy, **options).sources["all"].identity())

    first = identity()
    assert identity() == first
    assert identity(overlap="later") != first != identity(classes=("liver",))
    with open(copy / "a" / "seg.dcm", "ab") as handle:
        handle.write(bytes(8))
    assert identity() != first


@pytest.mark.parametrize("orientation", [make.AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_nifti_masks_in_their_own_order(tmp_path, orientation):
    labels = box(1, 1) + box(2, 3)
    labels[0, 0, 0] = 255
    make.write_series(tmp_path / "a", volume(0), orientation=orientation)
    nifti(tmp_path / "a" / "anything.nii.gz", labels, orientation=orientation)
    make.write_series(tmp_path / "b" / "dicom", volume(1), orientation=orientation)
    nifti(tmp_path / "b" / "mask.nii", box(1), orientation=orientation)
    nifti(tmp_path / "b" / "image.nii", volume(1), orientation=orientation)
    assert "nifti" in detect(tmp_path)["dicom_masks"]
    layout = open_layout(tmp_path)
    assert layout.classes == ("background", "1", "2")
    found = examples(layout)
    np.testing.assert_array_equal(grid_of(found["a"]).to_stored(found["a"]["mask"]), labels)
    np.testing.assert_array_equal(grid_of(found["b"]).to_stored(found["b"]["mask"]), box(1))
    assert [found[key]["label"].tolist() for key in "ab"] == [[1, 1], [1, 0]]
    assert open_layout(tmp_path, classes=("x", "y")).classes == ("background", "x", "y")
    few = open_layout(tmp_path, classes=("x",)).sources["all"]
    fails(lambda: few[0], tmp_path / "a" / "anything.nii.gz", "holds the value 2, beyond the 1 classes")
    seg_case(tmp_path / "c", 3)
    fails(lambda: open_layout(tmp_path), "its values have no names")
    assert examples(open_layout(tmp_path, classes=("tumour", "liver")))["c"]["label"].tolist() == [1, 1]


def test_nifti_masks_that_do_not_fit(tmp_path):
    make.write_series(tmp_path / "a", volume(0))
    path = tmp_path / "a" / "mask.nii.gz"

    def read():
        return open_layout(tmp_path, "dicom_masks").sources["all"][0]

    nifti(path, box(), origin=(-50.0, -40.0, 101.0))
    fails(read, path, "lies up to 1 mm away")
    nifti(path, box(), orientation=OBLIQUE)
    fails(read, path, "mm away")
    nibabel.save(nibabel.Nifti1Image(box()[:, :-1], np.eye(4)), path)
    fails(read, path, "has the shape")
    nifti(path, box() * np.float32(0.5))
    fails(read, path, "no whole numbers")
    nifti(path, box(255))
    fails(read, path, "save the class as 1")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.uint8), np.eye(4)), path)
    fails(read, path, "4 axes")


def test_metadata_and_split_folders(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "metadata.csv").write_text("id,patient,split,sex,site\na,1,train,M,X\nb,2,test,,Y\nc,1,train,F,X\n")
    layout = open_layout(copy)
    assert {split: [case.id for case in source.cases] for split, source in layout.sources.items()} == {
        "train": ["a", "c"],
        "test": ["b"],
    }
    found = examples(layout)
    assert [(e["patient"], e["sex"], e["site"], e["age"]) for e in found.values()] == [
        ("1", "M", "X", 61.0),
        ("1", "F", "X", 61.0),
        ("2", "F", "Y", 61.0),
    ]
    (copy / "metadata.csv").write_text("id,patient\na,1\n")
    fails(lambda: open_layout(copy), "has no row for b")
    (copy / "metadata.csv").unlink()
    for split, key in (("Training", "a"), ("test", "b"), ("test", "c")):
        (copy / split).mkdir(exist_ok=True)
        (copy / key).rename(copy / split / key)
    layout = open_layout(copy)
    assert {split: [case.id for case in source.cases] for split, source in layout.sources.items()} == {
        "test": ["test/b", "test/c"],
        "train": ["Training/a"],
    }
    (copy / "test" / "b").rename(copy / "b")
    fails(lambda: open_layout(copy), "lies beside the split")


def test_patients_of_several_studies_are_several_cases(tmp_path):
    for study in "xy":
        seg_case(tmp_path / "p" / study, PatientID="PP")
    layout = open_layout(tmp_path, "dicom_masks")
    assert [(case.id, case.patient) for case in layout.sources["all"].cases] == [("p/x", "PP"), ("p/y", "PP")]


def test_a_case_without_a_mask_is_unlabelled(folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "a")
    make.write_series(tmp_path / "z", volume(5))
    layout = open_layout(tmp_path)
    assert "1 of them have no mask" in layout.about
    example = layout.sources["all"][1]
    assert example["id"] == "z"
    assert (example["mask"] == 255).all()
    assert example["label"].tolist() == [-1, -1]
    shutil.rmtree(tmp_path / "a")
    fails(lambda: open_layout(tmp_path, "dicom_masks"), "holds no case with a mask")


def test_overlaps_stop_or_the_later_class_has_them(tmp_path):
    files = make.write_series(tmp_path / "a", volume(0))
    make.write_seg(tmp_path / "a" / "seg.dcm", files, np.stack([box(), box()], -1), ["organ", "lesion"])
    fails(lambda: open_layout(tmp_path).sources["all"][0], "12 voxels are of several classes")
    layout = open_layout(tmp_path, classes=("organ", "lesion"), overlap="later")
    np.testing.assert_array_equal(layout.sources["all"][0]["mask"], 2 * box())


def test_what_is_missing_or_too_much(folder, tmp_path):
    fails(lambda: open_layout(tmp_path, "dicom_masks"), "holds no case with a mask")
    copy = tmp_path / "copy"
    shutil.copytree(folder / "a", copy / "a")
    shutil.copy(copy / "a" / "seg.dcm", copy / "a" / "again.dcm")
    fails(lambda: open_layout(copy), copy / "a", "holds 2 masks")
    (copy / "a" / "again.dcm").unlink()
    make.write_series(copy / "a" / "b", volume(3), PatientID="PA")
    assert open_layout(copy).sources["all"].cases[0].series.files[0].parent == copy / "a"
    shutil.rmtree(copy / "a")
    make.write_series(copy / "a" / "b", volume(3))
    make.write_series(copy / "a" / "c", volume(3))
    nifti(copy / "a" / "mask.nii", box())
    fails(lambda: open_layout(copy), copy / "a", "holds 2 image series", "says which is meant")
    shutil.rmtree(copy / "a" / "b")
    shutil.rmtree(copy / "a" / "c")
    fails(lambda: open_layout(copy, "dicom_masks"), "but no DICOM image series")
    nifti(copy / "loose.nii", box())
    fails(lambda: open_layout(copy, "dicom_masks"), copy / "loose.nii", "outside of every case's folder")


def test_folders_of_dicom_pictures_are_none(tmp_path):
    for name in ("normal", "ill"):
        (tmp_path / name).mkdir()
        for i in range(3):
            write(tmp_path / name / f"{i}.dcm", dicom(np.zeros((8, 8), np.uint16), Modality="DX", SeriesInstanceUID=f"1.{i}"))
    assert list(detect(tmp_path)) == ["class_folders"]
