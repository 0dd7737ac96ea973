"""File names of images: of the kinds that are read, and of kinds that are images and are not.

A file of the second sort is a broken image, not one of the files that lie there besides: a class of camera raw files must not vanish.
"""

READ = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif"),
    *(".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
CAMERA_RAW = (
    ".3fr",
    ".arw",
    ".cr2",
    ".cr3",
    ".dng",
    ".erf",
    ".iiq",
    ".kdc",
    ".nef",
    ".nrw",
    ".orf",
    ".pef",
    ".raf",
    ".rw2",
    ".srw",
    ".x3f",
)
NOT_READ = dict.fromkeys(CAMERA_RAW, "camera raw") | {
    ".dcm": "DICOM",
    ".dds": "DDS",
    ".eps": "EPS",
    ".exr": "OpenEXR",
    ".fits": "FITS",
    ".ico": "Windows icon",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".nii": "NIfTI",
    ".pcx": "PCX",
    ".psb": "Photoshop",
    ".psd": "Photoshop",
    ".qoi": "QOI",
    ".sgi": "SGI",
    ".svg": "SVG",
    ".svgz": "SVG",
    ".tga": "Targa",
    ".wdp": "JPEG XR",
    ".xcf": "GIMP",
}


def not_read(name: str) -> str | None:
    """The kind of image that a file of this name is and that is not read here; None for any other."""
    return NOT_READ.get("." + name.removesuffix(")").rpartition(".")[2].lower())  # a Parquet row's is in brackets
