"""From a stranger's bytes to the square pixels that the model sees.

Three steps, each usable alone: `inspect` reads the header only and applies the limits, `decode` gives upright RGB
pixels, `fit_square` brings them to the model's size. Trainer and service both go through `fit_square`: a model that
is asked about pixels prepared in another way than it was trained on answers worse, and nothing says so.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from io import BytesIO

from PIL import ExifTags, Image, UnidentifiedImageError

from screening.errors import ImageTooLarge, ImageUnreadable, ImageUnsupported

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "AVIF")
"""Formats that are opened, told by content. AVIF needs a Pillow built with it; 11.3 and later are."""

PADDING = (128, 128, 128)
"""Colour beside a picture that is not square. Padding, not squashing: proportions are evidence of deformation."""

_START_OF_SCAN = b"\xff\xda"
_MAX_SCANS = 256
"""Scans of a JPEG. Progressive encoders write about ten; each costs a pass over all pixels, however few its bytes."""

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


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose header was accepted and whose pixels are not decoded yet."""

    data: bytes
    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def inspect(data: bytes, limits: ImageLimits = ImageLimits()) -> Picture:
    """Accept or refuse a picture by its size and header, without decoding pixels.

    Raises:
        ImageTooLarge: over `max_bytes` or `max_pixels`.
        ImageUnsupported: not an allowed format, or animated.
        ImageUnreadable: an allowed format with a damaged header, or a JPEG of absurdly many scans.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the file has {len(data) / 2**20:.1f} MiB; the limit is {limits.max_bytes / 2**20:.0f} MiB", unit="bytes"
        )
    with _open(data) as image:
        picture = Picture(data, "JPEG" if image.format == "MPO" else str(image.format), *image.size)
        # Phones write JPEGs with a preview or a gain map behind the picture (MPO): several frames, one still picture.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if picture.pixels == 0:
        raise ImageUnreadable("the picture's header is damaged (it says that there are no pixels)")
    if picture.pixels > limits.max_pixels:
        raise ImageTooLarge(
            f"the picture has {picture.width} x {picture.height} pixels; "
            f"the limit is {limits.max_pixels / 1e6:.0f} megapixels",
            unit="pixels",
        )
    if picture.format == "JPEG" and data.count(_START_OF_SCAN) > _MAX_SCANS:
        raise ImageUnreadable("the JPEG has more scans than any picture needs")
    if animated:
        raise ImageUnsupported("the picture is animated; send a still one")
    return picture


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


def decode(picture: Picture, *, shrink_to: int | None = None) -> Image.Image:
    """Decode to upright 8-bit RGB, transparent parts on white.

    Args:
        shrink_to: the longer side that will be needed. A JPEG is then decoded at a fraction of its size (never below
            twice this), which is most of the time saved per request.

    Raises:
        ImageUnreadable: truncated or damaged data.
    """
    with _open(picture.data) as image:
        try:
            if shrink_to is not None and image.mode in ("RGB", "L"):
                scale = 2 * shrink_to / max(image.size)
                image.draft(image.mode, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            image.load()
            rgb = _to_rgb(image)
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, MemoryError, ...
            raise ImageUnreadable(f"the {picture.format} picture is truncated or damaged ({error})") from error
        turn = _upright(image)
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


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageUnreadable("the picture is empty")
    _silence_pillow()
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the picture is far over the limit of pixels ({error})", unit="pixels") from error
    except UnidentifiedImageError as error:
        raise ImageUnsupported("the bytes are not a JPEG, PNG, WebP or AVIF picture") from error
    except Exception as error:  # a hostile header can raise anything in a parser of four formats
        raise ImageUnreadable(f"the picture's header is damaged ({error})") from error


def _silence_pillow() -> None:
    """Keep Pillow's warnings about strangers' pictures out of the log: odd EXIF, sizes (the limits here are lower).

    One lasting filter for Pillow's modules alone. `warnings.catch_warnings` saves and restores a list that all threads
    share, and pictures are decoded in threads: two overlapping calls can leave everybody's warnings switched off.
    """
    if _PILLOW_WARNINGS not in warnings.filters:  # tests and other libraries swap the list now and then
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _upright(image: Image.Image) -> Image.Transpose | None:
    """The turn that the EXIF orientation asks for; None for none, and for EXIF that cannot be read.

    Asked after `load`: a PNG may carry its EXIF behind the pixels, and asking first would load them.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - any parser error: a damaged EXIF block does not make the pixels unreadable
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255 and turns 16-bit pictures white.
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image
