"""Writers of small data sets with boxes, in the true layouts and encodings: COCO, VOC, YOLO, RSNA, LUNA16."""

import json
import zlib
from pathlib import Path

import make_layouts
import numpy as np
from PIL import Image

CLASSES = ("disc", "square")
SIZES = ((48, 64), (64, 48), (56, 56))  # height, width


def picture(rng, height, width, most=3):
    """(grey uint8 [H, W], boxes [m, 4], classes [m]): bright discs and squares on noise, none in some."""
    image = rng.normal(60, 12, (height, width))
    boxes, kinds = [], []
    for _ in range(int(rng.integers(0, most + 1))):
        side = int(rng.integers(10, 18))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        if any(x < b[2] and b[0] < x + side and y < b[3] and b[1] < y + side for b in boxes):
            continue
        kind = int(rng.integers(0, 2))
        yy, xx = np.mgrid[:side, :side] - (side - 1) / 2
        inside = yy**2 + xx**2 <= (side / 2) ** 2 if kind == 0 else np.ones((side, side), bool)
        image[y : y + side, x : x + side][inside] = 200
        boxes.append([x, y, x + side, y + side])
        kinds.append(kind)
    return np.clip(image, 0, 255).astype(np.uint8), np.array(boxes, float).reshape(-1, 4), np.array(kinds, int)


def pictures(n, seed=0, sizes=SIZES):
    """n of them, the first with both classes, the second empty."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < n:
        one = picture(rng, *sizes[len(found) % len(sizes)])
        wanted = {0: len(set(one[2])) == 2, 1: not len(one[2])}.get(len(found), True)
        found += [one] if wanted else []
    return found


def write_coco(folder, n=8, *, splits=("train", "val", "test"), sizes=SIZES, seed=0):
    """annotations/instances_SPLIT.json and images/SPLIT_i.png, two pictures a patient, ids that are not 1, 2, 3."""
    folder = Path(folder)
    (folder / "annotations").mkdir(parents=True)
    for s, split in enumerate(splits):
        images, notes = [], []
        for i, (image, boxes, kinds) in enumerate(pictures(n, seed + s, sizes)):
            name = f"{split}_{i:03d}.png"
            make_layouts.save(folder / "images" / name, image)
            height, width = image.shape
            number = 1000 * (s + 1) + 7 * i
            images.append({"id": number, "file_name": name, "height": height, "width": width, "patient_id": f"{split}{i // 2}"})
            for (x0, y0, x1, y1), k in zip(boxes.tolist(), kinds.tolist(), strict=True):
                box = [x0, y0, x1 - x0, y1 - y0]
                # From 1 on: pycocotools takes a box of id 0 for one that nothing has found.
                about = {"id": len(notes) + 1, "image_id": number, "category_id": (3, 9)[k], "bbox": box, "iscrowd": 0}
                notes.append({**about, "area": box[2] * box[3]})
        categories = [{"id": 3, "name": "disc"}, {"id": 9, "name": "square"}, {"id": 11, "name": "never"}]
        found = {"images": images, "annotations": notes, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(found))
    return folder


def write_voc(folder, n=12, *, seed=0, sizes=SIZES):
    """Annotations, JPEGImages and ImageSets/Main: pixels from 1 on, both corners inside."""
    folder, names = Path(folder), []
    for sub in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    for i, (image, boxes, kinds) in enumerate(pictures(n, seed, sizes)):
        name = f"smear_{i:03d}"
        names.append(name)
        Image.fromarray(np.repeat(image[..., None], 3, -1)).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        things = "".join(
            f"<object><name>{CLASSES[k]}</name><difficult>0</difficult><bndbox><xmin>{int(b[0]) + 1}</xmin>"
            f"<ymin>{int(b[1]) + 1}</ymin><xmax>{int(b[2])}</xmax><ymax>{int(b[3])}</ymax></bndbox></object>"
            for b, k in zip(boxes, kinds, strict=True)
        )
        height, width = image.shape
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{things}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    cuts = {"train": names[: n // 2], "val": names[n // 2 : 3 * n // 4], "test": names[3 * n // 4 :]}
    for split, of in {**cuts, "trainval": [*cuts["train"], *cuts["val"]]}.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in of))
    return folder


def write_yolo(folder, n=6, *, splits=("train", "valid", "test"), seed=0):
    """images/SPLIT and labels/SPLIT with data.yaml; no .txt for pictures without boxes."""
    folder = Path(folder)
    for s, split in enumerate(splits):
        (folder / "labels" / split).mkdir(parents=True)
        for i, (image, boxes, kinds) in enumerate(pictures(n, seed + s)):
            make_layouts.save(folder / "images" / split / f"{split}{i}.png", image)
            height, width = image.shape
            lines = [
                f"{k} {(b[0] + b[2]) / 2 / width:.6f} {(b[1] + b[3]) / 2 / height:.6f} "
                f"{(b[2] - b[0]) / width:.6f} {(b[3] - b[1]) / height:.6f}\n"
                for b, k in zip(boxes, kinds, strict=True)
            ]
            if lines:
                (folder / "labels" / split / f"{split}{i}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text("train: images/train\nnc: 2\nnames:\n  0: disc\n  1: square\n")
    return folder


def write_rsna(folder, n=24):
    """RSNA Pneumonia stage 2, JPEG inside of DICOM."""
    return make_layouts.write_rsna_pneumonia(folder, n)


def write_luna(folder, n=8, *, seed=0, packed=False):
    """annotations.csv and subset0/SERIES.mhd with .raw, of slices 40 x 48 x 6 and one nodule or none."""
    rng, folder, rows = np.random.default_rng(seed), Path(folder), []
    (folder / "subset0").mkdir(parents=True)
    for i in range(n):
        name = f"1.3.6.1.4.1.{i + 1}"
        voxels = rng.integers(-900, -700, (6, 40, 48)).astype("<i2")
        spacing, origin = (0.7, 0.7, 2.5), np.array([-100.0 + i, -50.0, -300.0])
        if i % 4 != 3:
            column, row, z = int(rng.integers(10, 38)), int(rng.integers(10, 30)), int(rng.integers(1, 5))
            yy, xx = np.mgrid[:40, :48]
            voxels[z][(yy - row) ** 2 + (xx - column) ** 2 <= 6**2] = 50
            place = origin + np.array([column, row, z]) * spacing
            rows.append((name, *place, 2 * 6.5 * 0.7))
        raw = voxels.tobytes()
        data = zlib.compress(raw) if packed else raw
        (folder / "subset0" / f"{name}.{'zraw' if packed else 'raw'}").write_bytes(data)
        facts = {
            "ObjectType": "Image",
            "NDims": 3,
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": "False",
            "CompressedData": str(packed),
            "TransformMatrix": "1 0 0 0 1 0 0 0 1",
            "Offset": " ".join(map(str, origin)),
            "ElementSpacing": " ".join(map(str, spacing)),
            "DimSize": "48 40 6",
            "ElementType": "MET_SHORT",
            "ElementDataFile": f"{name}.{'zraw' if packed else 'raw'}",
        }
        (folder / "subset0" / f"{name}.mhd").write_text("".join(f"{k} = {v}\n" for k, v in facts.items()))
    rows.append(("1.3.6.1.4.1.999", 0.0, 0.0, 0.0, 5.0))
    make_layouts.write_csv(folder / "annotations.csv", ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"), rows)
    return folder


WRITE = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "rsna_pneumonia": write_rsna, "luna16": write_luna}
