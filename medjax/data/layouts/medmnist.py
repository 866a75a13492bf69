"""MedMNIST: one .npz of train, val and test images and labels, 2-D or 3-D, of any of its sets and sizes."""

from __future__ import annotations

import collections
import re
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.core import SPLITS
from medjax.data.layouts import Layout
from medjax.errors import InputError

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
# Names in the order of the labels, as the sets' own list gives them (medmnist.com; Yang et al., Scientific Data 2023).
CLASSES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": (
        *("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb"),
    ),
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
    "organmnist3d": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right", "lung-left"),
        *("spleen", "pancreas"),
    ),
    "nodulemnist3d": ("benign", "malignant"),
    "adrenalmnist3d": ("normal", "hyperplasia"),
    "fracturemnist3d": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vesselmnist3d": ("vessel", "aneurysm"),
    "synapsemnist3d": ("inhibitory synapse", "excitatory synapse"),
}
ORDINAL = ("retinamnist",)
_MEMBERS = {f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")}
_CHANNELS = 7  # a volume has more slices
_BLOCK = 32 * 2**20  # bytes of images that are unpacked together
_BLOCKS = 8  # kept in memory of each split


def sources(path: str | Path) -> Layout:
    """Read a MedMNIST file, which gives its splits; patients are not known.

    Which set it is, and so what its classes are called, is told by the file's name, such as pathmnist_64.npz; they are numbers
    where the name says nothing. Labels [n, 1] are classes, ordinal in RetinaMNIST; labels [n, K] are K findings, of which
    several may be true. Images come as they are: [H, W], [H, W, 3] or [D, H, W] uint8. A large file is never in memory as a
    whole.

    Args:
      path: the .npz, or a folder with one.

    Raises:
      InputError: no such file, one that is not MedMNIST's or is damaged, images of a number of channels that no picture
        has, labels outside the set's classes.
    """
    file = _find(Path(path))
    members = {name: Member(file, name) for name in sorted(_MEMBERS)}
    for split in SPLITS:
        _check_shape(members[f"{split}_images.npy"])
    labels = {split: _labels(file, split, members) for split in SPLITS}
    flag = _flag(file)
    widths = {label.shape[1] for label in labels.values()}
    if len(widths) > 1:
        raise InputError(f"{file}: its splits differ in the number of labels\nget the file again")
    multi = widths != {1}
    most = max(int(label.max(initial=0)) for label in labels.values())
    counted = widths.pop() if multi else max(most + 1, 2)
    classes = CLASSES.get(flag, tuple(map(str, range(counted))))
    if (multi and (counted != len(classes) or most > 1)) or (not multi and counted > len(classes)):
        raise InputError(
            f"{file}: its labels do not fit the {len(classes)} classes of {flag or 'MedMNIST'}\nget the file again"
        )
    kind: Literal["single", "multi", "ordinal"] = "multi" if multi else "ordinal" if flag in ORDINAL else "single"
    found = {split: MedMNIST(members[f"{split}_images.npy"], labels[split], split) for split in SPLITS}
    shape = " x ".join(map(str, members["train_images.npy"].shape[1:]))
    about = f"{flag or 'a MedMNIST set of unknown name'}, {sum(map(len, found.values())):,} images of {shape}"
    return Layout(found, classes, kind, about)


def _check_shape(images: Member) -> None:
    """Raise InputError unless these are pictures or volumes; a last axis that is short and not 3 would pass for a volume's."""
    shape = images.shape
    if len(shape) == 3 or (len(shape) == 4 and (shape[-1] == 3 or min(shape[1:]) > _CHANNELS)):
        return
    raise InputError(
        f"{images.file}: {images.name.removesuffix('.npy')} has the shape {list(shape)}: no picture's and no volume's\n"
        "pictures are [n, H, W] or [n, H, W, 3], volumes [n, D, H, W]"
    )


def sniff(path: str | Path) -> str:
    """Why this looks like MedMNIST; "" where it does not."""
    try:
        file = _find(Path(path))
    except InputError:
        return ""
    return f"{file.name} holds images and labels of train, val and test"


class MedMNIST:
    """One split as examples {id, patient, label, image, path}."""

    def __init__(self, images: Member, labels: np.ndarray, split: str):
        self.images, self.labels, self.split = images, labels, split

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Image uint8 [H, W], [H, W, 3] or [D, H, W]."""
        label = self.labels[i]
        single = len(label) == 1
        return {
            "id": self.case_id(i),
            "patient": "",
            "label": int(label[0]) if single else label.astype(np.int8),
            "image": self.images[i],
            "path": f"{self.images.file}/{self.case_id(i)}",
        }

    def case_id(self, i: int) -> str:
        """Such as "train/00012": MedMNIST names its images by their place alone."""
        return f"{self.split}/{i:05d}"

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: the file's name, size and time."""
        stat = self.images.file.stat()
        yield f"{self.images.file}|{self.split}|{len(self)}|{stat.st_size}|{stat.st_mtime_ns}"


class Member:
    """An array in an .npz, unpacked block by block as it is asked for, from front to back; any thread may ask.

    A packed array has no random access: one that is larger than the blocks kept is unpacked anew when an earlier row is asked
    for again.
    """

    def __init__(self, file: Path, name: str):
        self.file, self.name = file, name
        self._lock = threading.Lock()
        self._blocks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._stream: Any = None
        self._next = 0
        try:
            with zipfile.ZipFile(file) as archive, archive.open(name) as stream:
                self.shape, self.dtype = _header(stream)
                size = archive.getinfo(name).file_size - stream.tell()
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{file}: {name} cannot be read ({error})\nget the file again") from error
        self.row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        if size != self.shape[0] * self.row:
            raise InputError(f"{file}: {name} has {size} bytes, not those of {self.shape} {self.dtype}\nget the file again")
        self._rows = max(1, _BLOCK // max(self.row, 1))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> np.ndarray:
        """Row i, a copy."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        with self._lock:
            return self._block(i // self._rows)[i % self._rows].copy()

    def _block(self, k: int) -> np.ndarray:
        while k not in self._blocks:
            if self._stream is None or k < self._next:
                self._stream = zipfile.ZipFile(self.file).open(self.name)  # noqa: SIM115, open while rows are asked for
                _header(self._stream)
                self._next = 0
            n = min(self._rows, len(self) - self._next * self._rows)
            try:
                data = self._stream.read(n * self.row)
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{self.file}: {self.name} is damaged ({error})\nget the file again") from error
            if len(data) < n * self.row:
                raise InputError(f"{self.file}: {self.name} is cut short\nget the file again")
            self._blocks[self._next] = np.frombuffer(data, self.dtype).reshape(n, *self.shape[1:])
            self._next += 1
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[k]


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran or dtype.kind not in "ui" or not shape:
        raise ValueError(f"{dtype} {shape} is no array of images or labels")
    return shape, dtype


def _find(path: Path) -> Path:
    if path.is_dir():
        found = [file for file in sorted(path.glob("*.npz")) if _is_medmnist(file)]
        if len(found) != 1:
            raise InputError(
                f"{path}: holds {len(found)} MedMNIST files, where one is wanted\ngive --data.path the .npz itself"
            )
        return found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder\ngive --data.path a MedMNIST .npz")
    if not _is_medmnist(path):
        raise InputError(f"{path}: is not a MedMNIST file\nexpected an .npz with {', '.join(sorted(_MEMBERS))}")
    return path


def _is_medmnist(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return set(archive.namelist()) >= _MEMBERS
    except (OSError, zipfile.BadZipFile):
        return False


def _flag(file: Path) -> str:
    """The set that a file's name tells; "" where it tells none."""
    found = re.match(r"[a-z]+mnist(3d)?(?=[_.\-]|$)", file.stem.lower())
    return found[0] if found and found[0] in CLASSES else ""


def _labels(file: Path, split: str, members: dict[str, Member]) -> np.ndarray:
    images, labels = members[f"{split}_images.npy"], members[f"{split}_labels.npy"]
    colour = len(images.shape) == 4 and images.shape[-1] == 3
    if images.dtype != np.uint8 or not (len(images.shape) == 3 or colour or len(images.shape) == 4):
        raise InputError(f"{file}: {images.name} is {images.dtype} {images.shape}, no images of MedMNIST\nget the file again")
    if len(images) != len(labels) or len(labels.shape) != 2 or not len(labels):
        raise InputError(f"{file}: has {len(images)} images and labels {labels.shape} in {split}\nget the file again")
    found = np.stack([labels[i] for i in range(len(labels))]).astype(np.int64)
    if found.min() < 0:
        raise InputError(f"{file}: {labels.name} holds negative labels\nget the file again")
    return found
