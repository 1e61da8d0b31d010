"""Encodes a PIL image as a file that the service accepts. The module needs Pillow, so it is imported only when used.

Transparent parts are placed on white, as in the service. An image whose longer side has at most `MAX_SIDE` pixels is
sent losslessly as PNG, if the file has at most `MAX_BYTES`. Any other image is scaled down to `MAX_SIDE` and sent as
JPEG of quality 95 without chroma subsampling. An image that is still too large, such as noise, is scaled down further.
"""

from __future__ import annotations

from io import BytesIO
from typing import cast

from PIL import ExifTags, Image, ImageChops, ImageCms

from screening_client.read_lock import read_lock

MAX_SIDE = 2048
"""Maximum length of the longer side in pixels. The supported models use at most 448 pixels."""
MAX_BYTES = 6 * 1024 * 1024
"""Maximum size of a file. Five such files fit into the service's limit of 32 MiB for a request."""

_LEAST_SIDE = 256
"""Minimum length of the longer side in pixels. A file of this size can only be too large because of its colour profile,
and the service then reports it."""
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation (CIPA DC-008, section 4.6.5)."""
_NOT_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_PROFILE_SPACES = {"RGB": b"RGB ", "L": b"GRAY"}
"""Colour space in the header of an ICC profile for each mode (ICC.1:2022, section 7.2.6)."""


def encode(image: Image.Image) -> bytes:
    """Encode an image as an upright, opaque PNG or JPEG file with the image's ICC profile.

    Raises:
        ValueError: the image's mode or values have no defined colours.
        Exception: any error of a decoder, because PIL opens files lazily and a damaged file fails only here.
    """
    with read_lock():  # afterwards the image is only read, which threads may do at once
        image.load()
        profile = image.info.get("icc_profile")
        turn = _TURNS.get(_orientation(image))
    flat = flatten(image, profile)
    if turn is not None:
        flat = flat.transpose(turn)
    if not profile or profile[16:20] != _PROFILE_SPACES[flat.mode]:
        profile = None  # it describes the colours before `flatten`
    flat.info.clear()  # Pillow would write this information too, such as a transparent colour or a comment
    if max(flat.size) <= MAX_SIDE:
        png = _save(flat, "PNG", icc_profile=profile)
        if len(png) <= MAX_BYTES:
            return png
    side = min(MAX_SIDE, max(flat.size))
    while True:
        data = _save(_scaled(flat, side), "JPEG", quality=95, subsampling=0, icc_profile=profile)
        if len(data) <= MAX_BYTES or side <= _LEAST_SIDE:
            return data
        side = side * 3 // 4


def flatten(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Convert an image to 8 bits in mode L or RGB, with transparent parts on white.

    Args:
        profile: the image's ICC profile. Only CMYK needs it, because it defines the colours there.

    Raises:
        ValueError: the image's mode or values have no defined colours.
    """
    if image.mode in _NOT_PREMULTIPLIED:
        image = image.convert(_NOT_PREMULTIPLIED[image.mode])
    if image.mode in _SIXTEEN_BITS:
        return _from_16_bits(image)
    if image.mode == "F":
        return _from_float(image)
    if image.mode == "CMYK" and profile and profile[16:20] == b"CMYK":
        return _from_cmyk(image, profile)
    if image.mode == "LA":
        grey = Image.new("L", image.size, 255)
        grey.paste(image.getchannel("L"), mask=image.getchannel("A"))
        return grey
    if image.mode in ("RGBA", "PA", "P") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    wide = image.convert("I")
    low, high = cast("tuple[int, int]", wide.getextrema())
    if low < 0 or high > 0xFFFF or (image.mode == "I" and 0 < high <= 0xFF):
        raise ValueError(
            f"mode {image.mode} with values from {low:g} to {high:g}: pass 0 to 65535, or convert it to mode L"
        )
    grey = wide.point(lambda value: value / 257).convert("L")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # in PNG, only this value is transparent
        above = wide.point(lambda value: value - transparent).convert("L")  # conversion clips at 0 and 255
        below = wide.point(lambda value: value * -1 + transparent).convert("L")
        grey.paste(255, mask=ImageChops.lighter(above, below).point([255] + [0] * 255))
    return grey


def _from_float(image: Image.Image) -> Image.Image:
    low, high = cast("tuple[float, float]", image.getextrema())
    if not (low >= 0 and high <= 0xFF) or 0 < high <= 1:
        raise ValueError(f"mode F with values from {low:g} to {high:g}: pass 0 to 255, or convert it to mode L")
    return image.convert("L")


def _from_cmyk(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        rgb = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):  # a damaged profile is ignored
        rgb = None
    return rgb or image.convert("RGB")


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation. Browsers and the service ignore one in XMP, which Pillow would use."""
    try:
        exif = image.getexif()
        if "xmp" in image.info or "XML:com.adobe.xmp" in image.info:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or b"")
        return exif.get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - any parser error: an image with damaged EXIF data still has valid pixels
        return None


def _scaled(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    width, height = (max(1, round(each * scale)) for each in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
