"""DICOM files in true encodings, from arrays: native ones by pydicom, JPEG by Pillow and GDCM, the others by their encoders."""

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    UncompressedTransferSyntaxes,
    generate_uid,
)

CLINICAL = {"PatientName": "Secret^Name", "PatientID": "P7", "PatientBirthDate": "19500102"}


def dicom(pixels, *, stored=None, photometric=None, syntax=ExplicitVRLittleEndian, frames=False, **elements):
    """An uncompressed data set of integers [H, W], [H, W, 3], or [D, H, W] where `frames`."""
    pixels = np.asarray(pixels)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and not frames
    made.Rows, made.Columns = pixels.shape[int(frames) : 2 + int(frames)]
    if frames:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel = 3 if colour else 1
    if colour:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = stored or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in {**CLINICAL, **elements}.items():
        setattr(made, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return made


def write(path, made, syntax=None, *, quality=90):
    """Write a data set of `dicom`, compressed to `syntax` where it is not already in it."""
    if syntax is not None and syntax != made.file_meta.TransferSyntaxUID:
        if syntax in UncompressedTransferSyntaxes:
            raise ValueError("give dicom() the native syntax")
        if syntax == JPEGBaseline8Bit or (syntax == JPEGExtended12Bit and made.BitsStored == 8):
            _jpeg(made, syntax, quality)
        elif syntax in (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless):
            return _by_gdcm(path, made, syntax)
        else:
            made.compress(syntax, generate_instance_uid=False, **({"j2k_cr": [5]} if syntax.keyword == "JPEG2000" else {}))
    pydicom.dcmwrite(path, made, enforce_file_format=True)  # save_as would not write big-endian
    return path


def _jpeg(made, syntax, quality):
    colour = made.SamplesPerPixel == 3
    shape = (int(made.get("NumberOfFrames", 1)), made.Rows, made.Columns, *((3,) if colour else ()))
    frames = []
    for frame in np.frombuffer(made.PixelData[: int(np.prod(shape))], np.uint8).reshape(shape):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        frames.append(buffer.getvalue())
    made.PixelData = encapsulate(frames)
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    if colour:
        made.PhotometricInterpretation = "YBR_FULL_422"


def _by_gdcm(path, made, syntax):
    import gdcm

    made.save_as(path, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    return path
