"""From a stranger's bytes to the square pixels that the model sees.

Three steps, each usable alone: `inspect` reads the header only and applies the limits, `decode` gives upright sRGB
pixels, `fit_square` brings them to the model's size. `accept` is `inspect` for pictures of products. Trainer and
service both go through `fit_square`: a model that is asked about pixels prepared in another way than it was trained on
answers worse, and nothing says so.

Where files leave a choice, a picture looks here as browsers show it: embedded colour profiles are applied, EXIF alone
turns a picture, and of what a damaged file has only part of, nothing is taken in.
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
FORMATS: tuple[str, ...] = tuple(_OPENERS)
"""Formats that are opened, told by content. AVIF needs a Pillow built with it; 11.3 and later are."""

PADDING = (128, 128, 128)
"""Colour beside a picture that is not square. Padding, not squashing: proportions are evidence of deformation."""

MIN_SIDE = 32
"""Pixels of a picture's shorter side, below which no product can be judged."""
MAX_ASPECT = 8
"""Longer side of a picture, in shorter sides. Of a narrower picture, the model's square would hold a few rows."""

_MAX_SCANS = 256
"""Scans of a JPEG. Progressive encoders write about ten; each costs a pass over all pixels, however few its bytes."""
_MAX_SCANNED_PIXELS = 400_000_000
"""Scans of a JPEG, times its pixels: 16 scans of a picture of 25 megapixels."""
_STRIP = 256
"""Rows that are converted at a time, so that no second picture of full size is in memory."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the operation that undoes it (CIPA DC-008, section 4.6.5)."""

_PILLOW_MODULES = r"PIL\."
_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
"""The entry that `_silence_pillow` makes in `warnings.filters`."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is taken in. Pillow's own bomb limit (179 Mpx) is 3.4 GB for five pictures, hence far lower ones here."""

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
    """How often decoding passes over all pixels: the scans of a JPEG."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def scanned_pixels(self) -> int:
        """Pixels that decoding passes over, in all scans: what it costs."""
        return self.pixels * self.scans


def inspect(data: bytes, limits: ImageLimits = ImageLimits()) -> Picture:
    """Accept or refuse a picture by its size and header, without decoding pixels.

    Raises:
        ImageTooLarge: over `max_bytes`, `max_pixels` or `max_side`, or a JPEG with too many scans for its pixels.
        ImageUnsupported: not an allowed format, or animated.
        ImageUnreadable: an allowed format with a damaged header, or a JPEG of absurdly many scans.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the file has {len(data) / 2**20:.1f} MiB; the limit is {limits.max_bytes / 2**20:.0f} MiB", unit="bytes"
        )
    kind = _format(data)
    opened = _open(data, kind, partial(_check_size, limits))
    with opened.image as image:
        picture = Picture(data, kind, *image.size, opened.scans)
    if opened.scans > _MAX_SCANS:
        raise ImageUnreadable("the JPEG has more scans than any picture needs")
    if picture.scanned_pixels > max(_MAX_SCANNED_PIXELS, limits.max_pixels):
        raise ImageTooLarge(
            f"the JPEG has {picture.scans} scans of {picture.pixels / 1e6:.1f} megapixels; "
            f"the limit is {_MAX_SCANNED_PIXELS / 1e6:.0f} megapixels in all scans. Save it with fewer scans.",
            unit="pixels",
        )
    if opened.animated:
        raise ImageUnsupported("the picture is animated; send a still one")
    return picture


def accept(data: bytes, limits: ImageLimits = ImageLimits()) -> Picture:
    """Accept or refuse a picture that the model shall judge. The service takes in, and the trainer trains on, the same.

    Raises:
        ImageError: see `inspect`.
        ImageShapeRefused: below `MIN_SIDE`, or over `MAX_ASPECT`.
    """
    picture = inspect(data, limits)
    shorter, longer = sorted((picture.width, picture.height))
    shown = f"the picture has {picture.width} x {picture.height} pixels"
    if shorter < MIN_SIDE:
        raise ImageShapeRefused(f"{shown}; its shorter side must have at least {MIN_SIDE}")
    if longer > MAX_ASPECT * shorter:
        raise ImageShapeRefused(f"{shown}; its longer side may be at most {MAX_ASPECT} times the shorter one")
    return picture


def _any_size(_width: int, _height: int) -> None:
    """The limits were applied by `inspect`."""


def _check_size(limits: ImageLimits, width: int, height: int) -> None:
    """
    Raises:
        ImageTooLarge: over a limit of pixels or of the side.
        ImageUnreadable: no pixels.
    """
    if width * height == 0:
        raise ImageUnreadable("the picture's header is damaged (it says that there are no pixels)")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels; the limit is {limits.max_pixels / 1e6:.0f} megapixels",
            unit="pixels",
        )
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels; the limit of a side is {limits.max_side} pixels",
            unit="pixels",
        )


def check_total(pictures: list[Picture], limits: ImageLimits) -> None:
    """Apply the limit on the sum of pixels.

    Raises:
        ImageTooLarge: over `max_total_pixels`.
    """
    total = sum(picture.pixels for picture in pictures)
    if total > limits.max_total_pixels:
        raise ImageTooLarge(
            f"the pictures have {total / 1e6:.0f} megapixels together; "
            f"the limit is {limits.max_total_pixels / 1e6:.0f}",
            unit="pixels",
        )


def decode(picture: Picture, *, shrink_to: int | None = None, keep_alpha: bool = False) -> Image.Image:
    """Decode to upright 8-bit RGB in the sRGB colour space, transparent parts on white.

    Args:
        shrink_to: the longer side that will be needed. A JPEG is then decoded at a fraction of its size (never below
            twice this), which is most of the time saved per request. A picture of another format is reduced likewise
            before its colours are converted from a profile.
        keep_alpha: return RGBA where the picture has transparency, instead of laying it on white.

    Raises:
        ImageUnreadable: truncated or damaged data.
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


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Bring an RGB picture to `size` x `size`: scaled to fit, centred, padded with grey."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if (width, height) == (size, size):
        return resized
    square = Image.new("RGB", (size, size), PADDING)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def load_square(data: bytes, size: int, limits: ImageLimits = ImageLimits()) -> Image.Image:
    """All three steps: bytes to the model's square pixels.

    Raises:
        ImageError: see `inspect` and `decode`.
    """
    return fit_square(decode(inspect(data, limits), shrink_to=size), size)


def _format(data: bytes) -> str:
    """
    Raises:
        ImageUnreadable: there are no bytes.
        ImageUnsupported: they begin like none of the formats.
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
    raise ImageUnsupported("the bytes are not a JPEG, PNG, WebP or AVIF picture")


def _open(data: bytes, kind: str, check_size: CheckSize) -> Opened:
    _silence_pillow()
    try:
        return _OPENERS[kind](data, check_size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the picture is far over the limit of pixels ({error})", unit="pixels") from error
    except Exception as error:  # a hostile header can raise anything in a parser of four formats
        raise damaged(kind, str(error)) from error


def _silence_pillow() -> None:
    """Keep Pillow's warnings about strangers' pictures out of the log: odd EXIF, sizes (the limits here are lower).

    One lasting filter for Pillow's modules alone. `warnings.catch_warnings` saves and restores a list that all threads
    share, and pictures are decoded in threads: two overlapping calls can leave everybody's warnings switched off.
    """
    if _PILLOW_WARNINGS not in warnings.filters:  # tests and other libraries swap the list now and then
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _upright(exif: bytes | None) -> Image.Transpose | None:
    """The turn that the EXIF orientation asks for; None for none, and for EXIF that cannot be read.

    XMP has an orientation as well, which Pillow's `Image.getexif` follows and browsers do not.
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
    """RGB in sRGB on white; RGBA for a transparent picture with `keep_alpha`."""
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if is_srgb("RGB" if image.mode == "P" else image.mode, profile):
        profile = None
    if profile is None and image.mode == "RGB":
        return image
    if profile is not None and shrink_to is not None and image.mode in ("RGB", "L"):
        image = image.reduce(max(1, max(image.size) // (2 * shrink_to)))  # converting colours takes longest
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
