"""What the segmenters cut out, and what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.trainer.data.compose.onnx_file import dark_finder
from tests.trainer.data.compose.photos import compose, cutout, make_references, photographed, two_halves
from trainer.data.compose.failures import ComposeError
from trainer.data.compose.segmenter import Segmenter, make_segmenter
from trainer.data.compose.segmenters.backdrop import Backdrop


def _alpha(segmenter: Segmenter, photo: Image.Image) -> np.ndarray:
    cut = segmenter.cut(photo)
    assert (cut.mode, cut.size) == ("RGBA", photo.size)
    return np.asarray(cut.getchannel("A"))


def test_backdrop_finds_the_product_and_not_its_shadow() -> None:
    photo = photographed(two_halves((61, 121)))
    expected = np.zeros((281, 241), bool)
    expected[80:201, 90:151] = True
    found = _alpha(Backdrop(), photo) >= 128
    assert (found & expected).sum() / (found | expected).sum() > 0.94
    inner = np.zeros_like(expected)
    inner[84:197, 94:147] = True
    assert found[inner].all()
    assert not found[~np.pad(expected[2:-2, 2:-2], 2)].sum() > 130


@pytest.mark.parametrize("seed", range(8))
def test_backdrop_keeps_white_labels_and_caps(seed: int) -> None:
    product = cutout(seed)
    photo = photographed(product, (product.width + 120, product.height + 120))
    shape = np.zeros((photo.height, photo.width), bool)
    solid = np.asarray(product.getchannel("A")) >= 128
    top, left = (photo.height - product.height) // 2, (photo.width - product.width) // 2
    shape[top : top + product.height, left : left + product.width] = solid
    found = _alpha(Backdrop(), photo) >= 128
    assert (found & shape).sum() / (found | shape).sum() > 0.91


def test_backdrop_leaves_no_colour_of_the_backdrop_in_the_edge() -> None:
    """A dark product that was blurred by the lens, on white: its edge must not be light."""
    sharp = Image.new("RGB", (400, 400), (246, 246, 246))
    ImageDraw.Draw(sharp).ellipse((100, 80, 300, 340), fill=(25, 45, 60))
    cut = np.asarray(Backdrop().cut(sharp.filter(ImageFilter.GaussianBlur(1.5)))).astype(int)
    visible = cut[..., 3] > 20
    assert np.abs(cut[visible][:, :3] - (25, 45, 60)).max() < 30


@pytest.mark.parametrize("logits", [True, False])
def test_onnx_cuts_with_a_model_in_a_file(logits: bool, tmp_path: Path) -> None:
    path = tmp_path / "dark.onnx"
    path.write_bytes(dark_finder(64, logits=logits))
    photo = Image.new("RGB", (300, 200), (240, 235, 230))
    ImageDraw.Draw(photo).rectangle((120, 40, 199, 169), fill=(20, 20, 70))
    found = _alpha(make_segmenter(f"onnx:{path}"), photo) >= 128
    expected = np.zeros((200, 300), bool)
    expected[40:170, 120:200] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.91


@pytest.mark.parametrize("name", ["backdrop", "onnx"])
def test_colours_under_transparent_pixels_are_not_seen(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dark.onnx"
    path.write_bytes(dark_finder(64, logits=True))
    photo = Image.new("RGBA", (300, 200), (255, 255, 255, 255))
    ImageDraw.Draw(photo).rectangle((40, 40, 119, 169), fill=(20, 20, 70, 255))
    ImageDraw.Draw(photo).rectangle((180, 40, 259, 169), fill=(20, 20, 70, 0))
    found = _alpha(make_segmenter(f"onnx:{path}" if name == "onnx" else name), photo) >= 128
    expected = np.zeros((200, 300), bool)
    expected[40:170, 40:120] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.91


def test_onnx_serves_a_run_and_its_file_belongs_to_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dark.onnx"
    path.write_bytes(dark_finder(64, logits=True))
    (tmp_path / "products").mkdir()
    photo = Image.new("RGB", (200, 200), (240, 235, 230))
    ImageDraw.Draw(photo).rectangle((60, 40, 139, 169), fill=(20, 20, 70))
    photo.save(tmp_path / "products" / "box.png")
    arguments = (tmp_path / "products", make_references(tmp_path / "references"), tmp_path / "out")
    assert compose(*arguments, "--segmenter", f"onnx:{path}") == 0
    path.write_bytes(dark_finder(32, logits=True))
    assert compose(*arguments, "--segmenter", f"onnx:{path}") == 2
    assert "other settings" in capsys.readouterr().err


def test_onnx_refuses_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ComposeError, match=r"model\.onnx cannot be loaded as an ONNX model"):
        make_segmenter(f"onnx:{path}").cut(Image.new("RGB", (64, 64)))


def test_a_segmenter_of_another_package_is_named_by_where_it_is() -> None:
    made = make_segmenter("tests.trainer.data.compose.test_segmenters:everything_left")
    assert made.identity == "left half"


class LeftHalf:
    """Takes the left half of every photo for the product."""

    identity = "left half"
    licence = Backdrop.licence

    def cut(self, photo: Image.Image) -> Image.Image:
        photo.putalpha(Image.new("L", photo.size))
        return photo


def everything_left(_: str) -> LeftHalf:
    return LeftHalf()
