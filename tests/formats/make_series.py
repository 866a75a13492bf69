"""DICOM series, segmentations by highdicom, and structure sets, in true encodings, from arrays."""

import warnings

import highdicom as hd
import numpy as np
import pydicom
from make_dicom import CLINICAL, dicom, write
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STUDY = {"PatientSex": "F", "PatientAge": "061Y", "AccessionNumber": "", "StudyID": "1", "StudyDate": "20200102"}
STUDY |= {"StudyTime": "101112", "ReferringPhysicianName": "", "SeriesNumber": 3, "Manufacturer": "medjax tests"}
CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


def tilted(degrees=20.0):
    """An orientation that no axis is parallel to."""
    a = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(a / 2), -np.sin(a / 2), 0], [np.sin(a / 2), np.cos(a / 2), 0], [0, 0, 1]])
    turned = about_x @ about_z
    return tuple(turned[:, 0]), tuple(turned[:, 1])


def directions(orientation):
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    return row, column, np.cross(row, column)


def numbers(values):
    return [f"{float(x):.10f}"[:16] for x in values]


def headers(n, *, orientation=AXIAL, origin=(-50.0, -40.0, 100.0), spacing=(2.5, 0.8, 0.6), frame=None, **elements):
    """A header of each slice, by increasing position along the normal: {keyword: value}. Spacing is (slice, row, column)."""
    normal = directions(orientation)[2]
    shared = {**STUDY, **CT, "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    shared |= {"FrameOfReferenceUID": frame or generate_uid(), "SliceThickness": spacing[0]}
    shared |= {"PixelSpacing": numbers(spacing[1:]), "ImageOrientationPatient": numbers(orientation), **elements}
    return [
        {**shared, "InstanceNumber": n - i, "ImagePositionPatient": numbers(np.array(origin) + i * spacing[0] * normal)}
        for i in range(n)
    ]


def write_series(folder, hounsfield, *, given=None, syntax=None, seed=0, **geometry):
    """One file a slice of whole Hounsfield units [slices, rows, columns], names shuffled and numbers descending.

    Returns the files in the order of the slices. None in `given`, or a keyword's value None, leaves a slice or an element out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = headers(len(hounsfield), **geometry) if given is None else given
    names = np.random.default_rng(seed).permutation(len(given))
    files = []
    for name, plane, header in zip(names, hounsfield, given, strict=True):
        if header is None:
            continue
        made = dicom((plane + 1024).astype(np.uint16), stored=12, **{k: v for k, v in header.items() if v is not None})
        files.append(write(folder / f"im{name:03d}.dcm", made, syntax))
    return files


def write_enhanced(path, hounsfield, order, **geometry):
    """One enhanced CT file, its frames in `order` of the slices."""
    given = headers(len(hounsfield), **geometry)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=given[0]["ImageOrientationPatient"])]
    shared.PixelMeasuresSequence = [item(PixelSpacing=given[0]["PixelSpacing"], SliceThickness=given[0]["SliceThickness"])]
    scaling = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    for i in order:
        frame = item(PlanePositionSequence=[item(ImagePositionPatient=given[i]["ImagePositionPatient"])])
        frame.PixelValueTransformationSequence = [scaling]
        frames.append(frame)
    names = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", *STUDY)
    elements = {name: given[0][name] for name in names}
    made = dicom((hounsfield[list(order)] + 1024).astype(np.uint16), stored=12, frames=True, **elements)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], frames
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    return write(path, made)


def item(**elements):
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return made


def write_seg(path, files, masks, names, kind="BINARY", **options):
    """A SEG by highdicom of masks [slices, rows, columns, segments] on the files of the slices in order."""
    sources = [pydicom.dcmread(file) for file in files]
    kinds = (codes.SCT.Tissue, codes.SCT.Tissue)
    segments = [hd.seg.SegmentDescription(k, name, *kinds, "MANUAL") for k, name in enumerate(names, 1)]
    ids = (generate_uid(), 9, generate_uid(), 1, "medjax tests", "highdicom", "1", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd.seg.Segmentation(sources, masks, kind, segments, *ids, **options).save_as(path)
    return path


def write_rtstruct(path, files, structures, *, kinds=None, frame=None):
    """An RTSTRUCT of {name: [contours [m, 3] in DICOM's mm]} that refers to the series of the files."""
    source = pydicom.dcmread(files[0], stop_before_pixels=True)
    frame = frame or source.FrameOfReferenceUID
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.StructureSetLabel = "RTSTRUCT", "tests"
    made.SeriesInstanceUID, made.StudyInstanceUID = generate_uid(), source.StudyInstanceUID
    for keyword, value in CLINICAL.items():
        setattr(made, keyword, value)
    series = item(SeriesInstanceUID=source.SeriesInstanceUID)
    study = item(ReferencedSOPInstanceUID=source.StudyInstanceUID, RTReferencedSeriesSequence=[series])
    made.ReferencedFrameOfReferenceSequence = [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    stated, drawn = [], []
    for number, (name, contours) in enumerate(structures.items(), 1):
        stated.append(item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame))
        kind = (kinds or {}).get(name, "CLOSED_PLANAR")
        sequence = [
            item(ContourGeometricType=kind, NumberOfContourPoints=len(c), ContourData=numbers(np.ravel(c))) for c in contours
        ]
        drawn.append(item(ReferencedROINumber=number, ContourSequence=sequence))
    made.StructureSetROISequence, made.ROIContourSequence = stated, drawn
    made.save_as(path, enforce_file_format=True)
    return path


def to_mm(points, *, orientation=AXIAL, origin=(-50.0, -40.0, 100.0), spacing=(2.5, 0.8, 0.6)):
    """(slice, row, column) [n, 3] -> DICOM's mm, with the geometry of `headers`."""
    row, column, normal = directions(orientation)
    s, r, c = np.asarray(points, float).T
    return (
        np.array(origin) + np.outer(s * spacing[0], normal) + np.outer(r * spacing[1], column) + np.outer(c * spacing[2], row)
    )
