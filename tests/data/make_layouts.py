"""Writers of small data sets in the true layouts and encodings: folders, tables, MedMNIST, RSNA, NIH, CheXpert."""

import csv
import datetime
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

NIH = "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema Emphysema Fibrosis"
NIH = (*NIH.split(), "Pleural_Thickening", "Hernia")
CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
HAEMORRHAGE = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")


def write_csv(path, header, rows):
    """A CSV with Windows line ends, as most downloads have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def rows_of(path):
    """The rows of a CSV as they stand there."""
    with open(path, newline="", encoding="utf-8-sig") as handle:
        return list(csv.DictReader(handle))


def everything(layout):
    """{id: item} of all image files of a layout."""
    return {item.id: item for source in layout.sources.values() for item in source.items}


def chest(rng, *, sick, size=96):
    """A dim field with two dark lungs and noise, [size, size] uint8; a bright patch in one lung where `sick`."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    y, x = y + rng.uniform(-0.06, 0.06), x + rng.uniform(-0.06, 0.06)
    image = 150 + rng.normal(0, 22, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)  # no patient is another's near-copy
    for side in (-0.22, 0.22):
        image[((x - side) / rng.uniform(0.12, 0.18)) ** 2 + (y / rng.uniform(0.28, 0.38)) ** 2 < 1] -= 90
    if sick:
        cy, cx = rng.uniform(-0.15, 0.15), rng.choice([-0.22, 0.22])
        image[(x - cx) ** 2 + (y - cy) ** 2 < 0.09**2] = 235
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def save(path, pixels):
    """An image file; the ending tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_class_folders(folder, n=6, *, classes=("normal", "pneumonia"), splits=("",), seed=0, ending=".png", patients=True):
    """FOLDER/[SPLIT/]CLASS/*, n pictures of each class and split, and a metadata.csv with two pictures a patient."""
    rng, rows, folder = np.random.default_rng(seed), [], Path(folder)
    for split in splits:
        for label, name in enumerate(classes):
            for i in range(n):
                inside = Path(split) / name / f"{split}{name}{i:03d}{ending}"
                save(folder / inside, chest(rng, sick=label > 0))
                rows.append((inside.as_posix(), f"{split}{name}{i // 2}", "FM"[i % 2], 20 + i, ("AP", "PA")[i % 2]))
    if patients:
        write_csv(folder / "metadata.csv", ("path", "patient", "sex", "age", "view"), rows)
    return folder


def write_table(folder, n=24, *, labels=("opacity", "effusion"), missing=0.1, seed=0, split=False):
    """FOLDER/images/*.png and FOLDER/cases.csv: 0/1/blank columns, or one column of class names where `labels` is empty."""
    rng, rows, folder = np.random.default_rng(seed), [], Path(folder)
    for i in range(n):
        truth = rng.random(max(len(labels), 1)) < 0.5
        save(folder / "images" / f"case{i:03d}.png", chest(rng, sick=bool(truth[0])))
        given = ["" if rng.random() < missing else int(t) for t in truth] if labels else [("clear", "opaque")[int(truth[0])]]
        where = [("train", "valid", "test")[min(i % 5, 2) if i % 5 < 3 else 0]] if split else []
        rows.append([f"images/case{i:03d}.png", f"P{i // 2}", "FM"[i // 2 % 2], 30 + i // 2, *given, *where])
    header = ["path", "patient", "sex", "age", *(labels or ("label",)), *(["split"] if split else [])]
    write_csv(folder / "cases.csv", header, rows)
    return folder


def write_medmnist(folder, flag="pneumoniamnist", *, n=(30, 9, 12), size=28, labels=None, seed=0, packed=True):
    """FOLDER/FLAG[_SIZE].npz as the archive has it: uint8, labels [n, 1] or [n, 14]; sets called ...3d are volumes."""
    rng = np.random.default_rng(seed)
    colour = flag in ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")
    classes = {"chestmnist": 2, "pathmnist": 9, "retinamnist": 5, "organmnist3d": 11, "fracturemnist3d": 3}.get(
        flag, labels or 2
    )
    arrays = {}
    for split, count in zip(("train", "val", "test"), n, strict=True):
        label = rng.integers(0, classes, (count, 14 if flag == "chestmnist" else 1))
        shape = (size, size, size) if flag.endswith("3d") else (size, size, 3) if colour else (size, size)
        image = rng.integers(0, 60, (count, *shape)) + (label[:, 0] * (150 // classes)).reshape(count, *[1] * len(shape))
        arrays |= {f"{split}_images": image.astype(np.uint8), f"{split}_labels": label.astype(np.uint8)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{flag}{'' if size == 28 else f'_{size}'}.npz"
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


def dicom(pixels, *, patient, jpeg=False, study="", slope=1, intercept=0, **facts):
    """A DICOM data set with its file meta: 8-bit JPEG baseline, or 16-bit signed explicit little endian."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage if not jpeg else pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientID, made.PatientName = patient, patient
    made.StudyInstanceUID, made.SeriesInstanceUID = study or generate_uid(), generate_uid()
    made.ContentDate = datetime.date(2018, 1, 1)
    made.Modality = "CR" if jpeg else "CT"
    for name, value in facts.items():
        setattr(made, name, value)
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if not jpeg:
        made.RescaleSlope, made.RescaleIntercept = slope, intercept
        made.WindowCenter, made.WindowWidth = 40, 80
        made.PixelData = pixels.tobytes()
        return made
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    made.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    made["PixelData"].is_undefined_length = True
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
    return made


def write_rsna_pneumonia(folder, n=12, *, size=128, seed=0):
    """Stage 2's folders and tables: a third each normal, abnormal and with one or two boxes, JPEG inside DICOM."""
    rng, boxes, details, folder = np.random.default_rng(seed), [], [], Path(folder)
    (folder / "stage_2_train_images").mkdir(parents=True)
    (folder / "stage_2_test_images").mkdir()
    for i in range(n):
        kind = i % 3
        name = f"{rng.integers(0, 2**62):016x}-0000-4000-8000-{i:012x}"
        facts = {"PatientSex": "FM"[i % 2], "PatientAge": f"{20 + i:03d}Y", "ViewPosition": ("PA", "AP")[i % 2]}
        pixels = chest(rng, sick=kind == 2, size=size)
        dicom(pixels, patient=name, jpeg=True, **facts).save_as(folder / "stage_2_train_images" / f"{name}.dcm")
        for k in range(1 + (i % 2) if kind == 2 else 1):
            box = (10.0 + k, 20.0, 30.0, 40.5) if kind == 2 else ("", "", "", "")
            boxes.append((name, *box, int(kind == 2)))
            details.append((name, ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")[kind]))
    unlabelled = dicom(chest(rng, sick=False, size=size), patient="test", jpeg=True)
    unlabelled.save_as(folder / "stage_2_test_images" / "unlabelled.dcm")
    write_csv(folder / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), boxes)
    write_csv(folder / "stage_2_detailed_class_info.csv", ("patientId", "class"), details)
    return folder


def write_nih(folder, n=20, *, size=96, seed=0, lists=True):
    """Data_Entry_2017_v2020.csv, images_001/images/*.png of two images a patient, and the official lists."""
    rng, rows, folder = np.random.default_rng(seed), [], Path(folder)
    for i in range(n):
        name = f"{i // 2:08d}_{i % 2:03d}.png"
        found = [finding for finding in NIH if rng.random() < 0.25]
        save(folder / f"images_{1 + i * 2 // n:03d}" / "images" / name, chest(rng, sick=bool(found), size=size))
        age = "058Y" if i == 0 else "414" if i == 1 else str(20 + i)
        findings, sex, view = "|".join(found) or "No Finding", "MF"[i // 2 % 2], ("PA", "AP")[i % 2]
        rows.append((name, findings, i % 2, i // 2, age, sex, view, 2500, 2048))
    header = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    write_csv(folder / "Data_Entry_2017_v2020.csv", (*header, "OriginalImage[Width", "Height]"), rows)
    if lists:
        names = [row[0] for row in rows]
        cut = n * 3 // 4 // 2 * 2
        (folder / "train_val_list.txt").write_text("\n".join(names[:cut]) + "\n")
        (folder / "test_list.txt").write_text("\n".join(names[cut:]))
    return folder


def write_chexpert(folder, n=20, *, size=96, seed=0):
    """FOLDER/CheXpert-v1.0-small; every fourth image is lateral, labels are 1.0, 0.0, -1.0 and blank."""
    rng, root = np.random.default_rng(seed), Path(folder) / "CheXpert-v1.0-small"
    for split, count, first in (("train", n, 1), ("valid", max(n // 4, 3), 64540)):
        rows = []
        for i in range(count):
            lateral = i % 4 == 3
            kind = "lateral" if lateral else "frontal"
            name = f"{split}/patient{first + i // 4:05d}/study1/view{i % 4 + 1}_{kind}.jpg"
            texts = ("1.0", "0.0") if split == "valid" else ("1.0", "0.0", "-1.0", "")
            labels = [texts[k] for k in rng.integers(0, len(texts), len(CHEXPERT))]
            save(root / name, chest(rng, sick=labels[3] == "1.0", size=size))
            shown = "" if lateral else ("AP", "PA")[i % 2]
            sex = ("Female", "Male", "Unknown")[i // 4 % 3]
            rows.append((f"CheXpert-v1.0-small/{name}", sex, 40 + i, kind.title(), shown, *labels))
        write_csv(root / f"{split}.csv", ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT), rows)
    return root


def write_rsna_haemorrhage(folder, n=24, *, size=64, seed=0, slices=3):
    """stage_2_train/*.dcm, 16-bit CT with rescale, `slices` a patient, and the long table with one image's rows twice."""
    rng, rows, folder = np.random.default_rng(seed), [], Path(folder)
    (folder / "stage_2_train").mkdir(parents=True)
    for i in range(n):
        name = f"ID_{rng.integers(0, 2**36):09x}"
        kinds = rng.random(5) < 0.3
        hounsfield = np.full((size, size), -1000) + rng.integers(-5, 5, (size, size))
        y, x = np.mgrid[:size, :size] / size - 0.5
        brain = 35 + rng.normal(0, 9, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)  # no slice is another's near-copy
        head = (x / rng.uniform(0.36, 0.45)) ** 2 + (y / rng.uniform(0.36, 0.45)) ** 2 < 1
        hounsfield[head] = brain[head]
        hounsfield[(x - rng.uniform(-0.2, 0.2)) ** 2 + y**2 < 0.02 * kinds.any()] = 75
        stored = (hounsfield + 1024).astype(np.int16)
        made = dicom(stored, patient=f"ID_{i // slices:08x}", study=f"1.2.3.{i // slices + 1}", slope=1, intercept=-1024)
        made.save_as(folder / "stage_2_train" / f"{name}.dcm")
        one = [(f"{name}_{kind}", int(truth)) for kind, truth in zip(HAEMORRHAGE, [*kinds, kinds.any()])]
        rows += one * (2 if i == 1 else 1)
    write_csv(folder / "stage_2_train.csv", ("ID", "Label"), rows)
    return folder


def write_splits(path, split_of):
    """A user's split file from {id: split}: JSON or CSV by the ending."""
    if path.suffix == ".json":
        names = sorted(set(split_of.values()))
        path.write_text(json.dumps({name: [key for key, where in split_of.items() if where == name] for name in names}))
        return path
    return write_csv(path, ("id", "split"), split_of.items())
