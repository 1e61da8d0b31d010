"""Converts untrusted image files to the pictures that the model sees.

There are three steps, each usable alone. `inspect` reads only the header and applies the limits, `decode` produces
upright sRGB pixels, and `fit` scales them to a size. `accept` is `inspect` with further limits for product pictures.
Trainer and service take the last two steps by `screening.inference.pictures`, which knows the size for a checkpoint.

Pictures look the same as in browsers. Embedded colour profiles are applied, only EXIF rotates a picture, and a damaged
file is refused as a whole.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import ExifTags, Image

from screening.errors import ImageError, ImageShapeRefused, ImageTooLarge, ImageUnreadable, ImageUnsupported
from screening.image_files import avif, jpeg, png, webp
from screening.image_files.colour import is_srgb, to_srgb
from screening.image_files.opened import CheckSize, Opened, damaged

_OPENERS: dict[str, Callable[[bytes, CheckSize], Opened]] = {
    "JPEG": jpeg.open_file,
    "PNG": png.open_file,
    "WEBP": webp.open_file,
    "AVIF": avif.open_file,
}
"""Format, which is recognised by content → its reader. AVIF needs Pillow 11.3 or later."""

PADDING = (128, 128, 128)
"""Colour of the padding around a picture that is not square. Distorting it would hide deformations of the product."""

MIN_SIDE = 32
"""Minimum length of the shorter side in pixels. Smaller pictures do not show enough of a product."""
MAX_ASPECT = 8
"""Maximum ratio of the longer to the shorter side. A narrower picture would fill only a few rows of the square."""

_MAX_SCANS = 256
"""Maximum number of scans of a JPEG. Encoders write about ten, and each scan costs a pass over all pixels."""
_MAX_SCANNED_PIXELS = 400_000_000
"""Maximum number of pixels of a JPEG times its scans, for example 16 scans of 25 megapixels."""
_STRIP = 256
"""Number of rows that are converted at a time, so that memory never holds a second picture of full size."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation (CIPA DC-008, section 4.6.5)."""

_PILLOW_MODULES = r"PIL\."
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
"""The entry that `_silence_pillow` adds to `warnings.filters`."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits for pictures. Pillow's own limit of 179 megapixels would allow five pictures to use 3.4 GB."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 25_000_000
    max_total_pixels: int = 100_000_000
    max_side: int = 16_384


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose header was accepted and whose pixels are not decoded yet."""

    data: bytes
    format: str
    width: int
    height: int
    scans: int = 1
    """Number of passes over all pixels that decoding takes; more than 1 only for JPEG."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def scanned_pixels(self) -> int:
        """Cost of decoding: the number of pixels times the number of scans."""
        return self.pixels * self.scans


def inspect(data: bytes, limits: ImageLimits = ImageLimits()) -> Picture:
    """Accept or refuse a picture by its size and header, without decoding pixels.

    Raises:
        ImageTooLarge: the picture exceeds `max_bytes`, `max_pixels` or `max_side`, or a JPEG has too many scans.
        ImageUnsupported: the format is not supported, or the picture is animated.
        ImageUnreadable: the header is damaged, or a JPEG has more scans than any encoder writes.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the file has {len(data) / 2**20:.1f} MiB; the limit is {limits.max_bytes / 2**20:.0f} MiB", unit="bytes"
        )
    kind = _format(data)
    opened = _open(data, kind, partial(_check_size, limits))
    with opened.image as image:
        _check_size(limits, *image.size)  # Pillow may have read another size than the format's own reader
        picture = Picture(data, kind, *image.size, opened.scans)
    if opened.scans > _MAX_SCANS:
        raise ImageUnreadable(
            f"the JPEG has {opened.scans} scans; the limit is {_MAX_SCANS}. Save it with fewer scans."
        )
    if picture.scanned_pixels > max(_MAX_SCANNED_PIXELS, limits.max_pixels):
        raise ImageTooLarge(
            f"the JPEG has {picture.scans} scans of {picture.pixels / 1e6:.1f} megapixels; "
            f"the limit is {_MAX_SCANNED_PIXELS / 1e6:.0f} megapixels in all scans. Save it with fewer scans.",
            unit="pixels",
        )
    if opened.animated:
        raise ImageUnsupported("the picture is animated; send a still picture")
    return picture


def accept(data: bytes, limits: ImageLimits = ImageLimits()) -> Picture:
    """Accept or refuse a product picture. The service and the trainer apply the same rules.

    Raises:
        ImageError: see `inspect`.
        ImageShapeRefused: the shorter side is below `MIN_SIDE`, or the aspect ratio is above `MAX_ASPECT`.
    """
    picture = inspect(data, limits)
    shorter, longer = sorted((picture.width, picture.height))
    shown = f"the picture has {picture.width} x {picture.height} pixels"
    if shorter < MIN_SIDE:
        raise ImageShapeRefused(f"{shown}; its shorter side must have at least {MIN_SIDE} pixels")
    if longer > MAX_ASPECT * shorter:
        raise ImageShapeRefused(f"{shown}; its longer side may be at most {MAX_ASPECT} times the shorter one")
    return picture


def _any_size(_width: int, _height: int) -> None:
    """Check nothing, because `inspect` has applied the limits already."""


def _check_size(limits: ImageLimits, width: int, height: int) -> None:
    """
    Raises:
        ImageTooLarge: the picture exceeds the limit of pixels or of its sides.
        ImageUnreadable: the picture has no pixels.
    """
    if width * height == 0:
        raise ImageUnreadable("the picture's header is damaged (its width or height is 0)")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels; the limit is {limits.max_pixels / 1e6:.0f} megapixels",
            unit="pixels",
        )
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels; the limit for each side is {limits.max_side} pixels",
            unit="pixels",
        )


def check_total(pictures: list[Picture], limits: ImageLimits) -> None:
    """Check the total number of pixels.

    Raises:
        ImageTooLarge: the pictures together exceed `max_total_pixels`.
    """
    total = sum(picture.pixels for picture in pictures)
    if total > limits.max_total_pixels:
        raise ImageTooLarge(
            f"the pictures together have {total / 1e6:.0f} megapixels; "
            f"the limit is {limits.max_total_pixels / 1e6:.0f} megapixels",
            unit="pixels",
        )


def decode(picture: Picture, *, shrink_to: int | None = None, keep_alpha: bool = False) -> Image.Image:
    """Decode to upright 8-bit RGB in the sRGB colour space, with transparent parts on white.

    Args:
        shrink_to: length of the longer side that the caller needs. A JPEG is then decoded at a fraction of its size,
            but never below twice this length, which saves most of the decoding time. Pictures of other formats are
            reduced in the same way before their colours are converted.
        keep_alpha: return RGBA if the picture has transparency, instead of placing it on white.

    Raises:
        ImageUnreadable: the data are truncated or damaged.
    """
    opened = _open(picture.data, picture.format, _any_size)
    with opened.image as image:
        try:
            if shrink_to is not None and image.mode in ("RGB", "L"):
                scale = 2 * shrink_to / max(image.size)
                image.draft(image.mode, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            rgb = _converted(opened.load(), opened.profile, shrink_to, keep_alpha)
        except ImageError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, MemoryError, ...
            raise damaged(picture.format, str(error)) from error
    turn = _upright(opened.exif)
    return rgb.transpose(turn) if turn is not None else rgb


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an RGB picture to fit into `size` (width, height), centre it and pad it with grey."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if (width, height) == size:
        return resized
    canvas = Image.new("RGB", size, PADDING)
    canvas.paste(resized, ((size[0] - width) // 2, (size[1] - height) // 2))
    return canvas


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Fit an RGB picture into a square of `size` x `size`."""
    return fit(image, (size, size))


def _format(data: bytes) -> str:
    """
    Raises:
        ImageUnreadable: the file is empty.
        ImageUnsupported: the file does not begin like a supported format.
    """
    if not data:
        raise ImageUnreadable("the picture is empty")
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data.startswith(png.SIGNATURE[:4]):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] in (b"WEBP", b""):
        return "WEBP"
    if avif.is_avif(data):
        return "AVIF"
    is_name = len(data) <= 255 and data.isascii() and data.decode().strip().isprintable()
    hint = "; they look like the name of a file, so send its content" if is_name else ""
    raise ImageUnsupported(f"the bytes are not a JPEG, PNG, WebP or AVIF picture{hint}")


def _open(data: bytes, kind: str, check_size: CheckSize) -> Opened:
    _silence_pillow()
    try:
        return _OPENERS[kind](data, check_size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the picture has far too many pixels ({error})", unit="pixels") from error
    except Exception as error:  # a boundary: a hostile header can make a parser raise any exception
        raise damaged(kind, str(error)) from error


def _silence_pillow() -> None:
    """Suppress Pillow's warnings about untrusted pictures, for example about odd EXIF data.

    This adds one permanent filter for Pillow's modules. `warnings.catch_warnings` would save and restore a list that
    all threads share, and pictures are decoded in threads: two overlapping calls could disable all warnings for good.
    """
    if _PILLOW_WARNINGS not in warnings.filters:  # tests and other libraries may have replaced the list
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _upright(exif: bytes | None) -> Image.Transpose | None:
    """The rotation that the EXIF orientation requires; None if there is none or the EXIF data cannot be read.

    XMP can contain an orientation as well, which Pillow's `Image.getexif` uses and browsers ignore.
    """
    if not exif:
        return None
    try:
        tags = Image.Exif()
        tags.load(exif)
        orientation = tags.get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - any parser error: a damaged EXIF block does not make the pixels unreadable
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _converted(image: Image.Image, profile: bytes | None, shrink_to: int | None, keep_alpha: bool) -> Image.Image:
    """Convert to sRGB: RGB on white, or RGBA for a transparent picture if `keep_alpha` is set."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if is_srgb("RGB" if image.mode == "P" else image.mode, profile):
        profile = None
    if profile is None and image.mode == "RGB":
        return image
    if profile is not None and shrink_to is not None and image.mode in ("RGB", "L"):
        image = image.reduce(max(1, max(image.size) // (2 * shrink_to)))  # the colour conversion is the slowest step
    target = Image.new("RGBA" if keep_alpha and transparent else "RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        if strip.mode == "P":
            strip = strip.convert("RGBA" if transparent else "RGB")
        strip = to_srgb(strip, profile)
        target.paste(strip.convert("RGBA") if target.mode == "RGBA" else _on_white(strip, transparent), (0, top))
    return target


def _on_white(image: Image.Image, transparent: bool) -> Image.Image:
    if not transparent:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")
