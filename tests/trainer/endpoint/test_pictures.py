"""Pictures as an endpoint gets them."""

from __future__ import annotations

import base64
from io import BytesIO

import pytest
from PIL import Image

from trainer.data_directory import DataError
from trainer.endpoint.pictures import data_url


def test_a_picture_is_sent_upright_in_its_proportions_and_not_enlarged(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated to the right for display
    Image.new("RGB", (400, 200), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif)
    for size, expected in ((100, (50, 100)), (1000, (200, 400))):
        url = data_url(tmp_path, "turned.jpg", size)
        with Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            assert (image.format, image.size) == ("JPEG", expected)
            assert not image.getexif()


def test_a_picture_over_a_limit_is_named(tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png: .*the limit is 25 megapixels"):
        data_url(tmp_path, "huge.png", 100)
