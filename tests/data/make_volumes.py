"""Writers of small segmentation data sets in their true layouts and encodings: the Decathlon, nnU-Net, images with masks."""

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
from make_layouts import save, write_csv

# Which of the world's axes each stored axis runs along, in which direction: all 48.
ORDERS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
SPACING = (0.7, 1.3, 2.5)


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), *, spacing=SPACING, turn=0.0, seed=0):
    """[4, 4] of 32-bit numbers: stored axis i runs along the world's axis order[i], turned by a small rotation."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
        affine[along, axis] = sign * spacing[along]
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(np.eye(3) + turn * rng.normal(size=(3, 3)))
    rotation *= np.sign(np.diag(rotation))
    affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = rng.normal(size=3) * 30
    return affine.astype(np.float32).astype(np.float64)


def save_nifti(path, array, affine=None, *, code=1, kind=nibabel.Nifti1Image):
    """A NIfTI file with an sform alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(array, affine_of() if affine is None else affine)
    image.set_sform(image.affine, code)
    image.set_qform(None, 0)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def labels_of(rng, shape, classes, lacks=()):
    """uint8 [shape] of a block of each class in a sea of background, but for those that are lacking."""
    labels = np.zeros(shape, np.uint8)
    for k in range(1, classes):
        if k not in lacks:
            at = [int(rng.integers(0, n - 2)) for n in shape[:3]]
            labels[tuple(slice(a, a + 2) for a in at)] = k
    for k in set(range(1, classes)) - set(np.unique(labels).tolist()) - set(lacks):
        labels.flat[k] = k  # one that others were painted over
    return labels


def write_msd(folder, n=6, *, modality=("FLAIR", "T1w"), classes=("background", "a", "b", "c", "d"), lacking=2, seed=0):
    """Task folder of n training and 2 test cases; case `lacking` has no class 3; odd and oblique orientations."""
    rng, folder, training = np.random.default_rng(seed), Path(folder), []
    for i in range(n):
        shape = (7 + i, 9, 8)
        affine = affine_of(*ORDERS[i * 7 % 48], turn=0.15 * (i % 2), seed=i)
        channels = (len(modality),) if len(modality) > 1 else ()
        image = rng.integers(-200, 900, (*shape, *channels)).astype(np.int16)
        name = f"toy_{i:03d}.nii.gz"
        save_nifti(folder / "imagesTr" / name, image, affine)
        save_nifti(folder / "labelsTr" / name, labels_of(rng, shape, len(classes), (3,) if i == lacking else ()), affine)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    for i in range(2):
        save_nifti(folder / "imagesTs" / f"toy_9{i}.nii.gz", np.zeros((7, 9, 8, *channels), np.int16))
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "._toy_000.nii.gz").write_bytes(b"\0\5\x16\7 Mac")
    about = {
        "name": "Toy",
        "tensorImageSize": "4D",
        "modality": {str(k): name for k, name in enumerate(modality)},
        "labels": {str(k): name for k, name in enumerate(classes)},
        "numTraining": n,
        "numTest": 2,
        "training": training,
        "test": [f"./imagesTs/toy_9{i}.nii.gz" for i in range(2)],
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def write_nnunet(folder, n=6, *, channels=("T1", "T2"), labels=None, test=2, splits=True, seed=0, ending=".nii.gz"):
    """nnUNet_raw/DatasetXXX of n training and `test` test cases, a file for each channel, and splits_final.json of 2 folds."""
    rng, folder = np.random.default_rng(seed), Path(folder)
    labels = labels or {"background": 0, "organ": 1, "tumour": 2}
    for part, count in (("Tr", n), ("Ts", test)):
        for i in range(count):
            shape, name = (6, 7 + i, 8), f"case_{part}{i}"
            affine = affine_of(*ORDERS[i * 5 % 48], seed=i)
            for c in range(len(channels)):
                image = rng.normal(size=shape).astype(np.float32)
                save_nifti(folder / f"images{part}" / f"{name}_{c:04d}{ending}", image, affine)
            save_nifti(folder / f"labels{part}" / f"{name}{ending}", labels_of(rng, shape, len(labels)), affine)
    about = {"channel_names": {str(c): name for c, name in enumerate(channels)}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps({**about, "numTraining": n, "file_ending": ending}))
    names = [f"case_Tr{i}" for i in range(n)]
    if splits:
        folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:-2], "val": names[-2:]}]
        (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder


def write_images_masks(folder, n=6, *, values=(0, 255), ending=".png", dtype=np.uint8, suffix="", splits=("",), seed=0):
    """FOLDER/[SPLIT/]images and masks, n of each split, two pictures a patient, and a metadata.csv."""
    rng, rows, folder = np.random.default_rng(seed), [], Path(folder)
    for split in splits:
        for i in range(n):
            name = f"{split}{i:03d}"
            image = rng.integers(0, np.iinfo(dtype).max, (12 + i, 10)).astype(dtype)
            mask = np.array(values, np.uint8)[labels_of(rng, (12 + i, 10, 3), len(values))[..., 0]]
            mask[0, : len(values)] = values
            save(folder / split / "images" / f"{name}{ending}", image)
            save(folder / split / "masks" / f"{name}{suffix}.png", mask)
            rows.append((name, f"P{split}{i // 2}", "FM"[i // 2 % 2], 40 + i))
    write_csv(folder / "metadata.csv", ("name", "patient", "sex", "age"), rows)
    return folder
