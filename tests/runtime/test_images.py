"""Pictures of every kind become (H, W, 3) uint8, or an error that names the file."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from mdrt.runtime.errors import ImageError
from mdrt.runtime.pictures.images import read_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    grey = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (20, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        grey_image = Image.fromarray(grey)
        image = (grey_image if mode == "P" else grey_image.convert("RGB")).convert(mode)
    path = tmp_path / "x.tif"
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (20, 25, 3)
    assert pixels.dtype == np.uint8
    if mode != "1":
        assert np.abs(pixels[:, :, 0].astype(int) - grey).max() <= 3


@pytest.mark.parametrize("top", [0.25, 0.5, 1.0])
def test_float_greys_in_the_unit_interval_have_a_fixed_scale(tmp_path, top):
    """The same pixel gets the same brightness whatever else is in the picture."""
    grey = np.array([[0.0, 0.2, top]], np.float32)
    Image.fromarray(grey).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif")[0, :, 1].tolist() == [0, 51, round(top * 255)]


@pytest.mark.parametrize("top", [2.0, 180.4, 255.0])
def test_float_greys_up_to_255_are_kept(tmp_path, top):
    Image.fromarray(np.array([[0.0, 0.6, top]], np.float32)).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif")[0, :, 1].tolist() == [0, 1, round(top)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([-0.5, 0.5], "from -0.5 to 0.5"),
        ([0.0, 255.5], "from 0 to 255.5"),
        ([0.0, 1.0001], "from 0 to 1.0001"),  # neither scale: kept, it would be black
        ([0.0, np.nan], "nan"),
        ([0.0, np.inf], "inf"),
    ],
)
def test_float_greys_of_another_range_are_refused(tmp_path, values, words):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=words + r".*0 to 1 or 0 to 255") as caught:
        read_image(tmp_path / "x.tif")
    assert "x.tif" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
@pytest.mark.parametrize("top", [300, 65535])
def test_sixteen_bit_greys_have_a_fixed_scale(tmp_path, kind, top):
    Image.fromarray(np.array([[0, 257 * 100, top]], kind)).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif")[0, :, 1].tolist() == [0, 100, round(top / 257)]


@pytest.mark.parametrize("values", [[-3, 9], [0, 65536]])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path, values):
    Image.fromarray(np.array([values], np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=rf"x\.tif.*{values[0]} to {values[1]}.*0 to 65535"):
        read_image(tmp_path / "x.tif")


def test_transparent_pixels_lie_on_white(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path)
    assert (read_image(path) == 255).all()


def test_exif_orientation_is_applied(tmp_path):
    path = tmp_path / "x.jpg"
    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[274] = 6  # turn a quarter
    image.save(path, exif=exif)
    assert read_image(path).shape == (30, 10, 3)


def test_missing_corrupt_and_truncated_files_are_named(tmp_path, picture):
    with pytest.raises(ImageError, match=r"nope\.png does not exist"):
        read_image(tmp_path / "nope.png")
    with pytest.raises(ImageError, match="is a directory"):
        read_image(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png is no picture that Pillow can read"):
        read_image(text)
    whole = tmp_path / "whole.png"
    Image.fromarray(picture).save(whole)
    for share in (0.02, 0.5, 0.95):
        cut = tmp_path / "cut.png"
        data = whole.read_bytes()
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match=r"cut\.png"):
            read_image(cut)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "big.png"
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(ImageError, match="too large"):
        read_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3, 1), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(array):
    with pytest.raises(ImageError, match="expected uint8"):
        read_image(array)


def turned(picture, path):
    """A file whose pixels lie on their side, as its EXIF orientation says; what it shows."""
    image = Image.fromarray(picture[:96, :160])
    exif = image.getexif()
    exif[274] = 6  # to be turned a quarter clockwise
    image.save(path, exif=exif)
    return np.rot90(picture[:96, :160], -1)


@pytest.mark.parametrize(
    "handed_over",
    [
        str,
        lambda path: path,
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: path.open("rb"),
        Image.open,
    ],
    ids=["str", "path", "bytes", "bytearray", "memory", "file", "Pillow"],
)
def test_a_picture_is_read_however_it_is_handed_over(tmp_path, picture, handed_over):
    wanted = turned(picture, tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(handed_over(tmp_path / "x.png")), wanted)


def test_a_file_that_was_handed_over_stays_open(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "x.png")
    with (tmp_path / "x.png").open("rb") as file:
        read_image(file)
        assert not file.closed


def test_arrays_of_grey_and_with_transparency(picture):
    assert read_image(picture) is picture
    grey = read_image(picture[..., 0])
    np.testing.assert_array_equal(grey, picture[..., [0, 0, 0]])
    alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
    np.testing.assert_array_equal(read_image(np.concatenate([picture, alpha], 2)), picture)
    assert (read_image(np.concatenate([picture, 0 * alpha], 2)) == 255).all()


@pytest.mark.parametrize("thing", [None, 7, ["a.png"], io.StringIO("text")])
def test_what_is_no_picture_at_all(thing):
    with pytest.raises(ImageError, match=rf"type {type(thing).__name__}, expected a path, bytes"):
        read_image(thing)


@pytest.mark.parametrize("thing", [b"", b"GIF89a", io.BytesIO(b"nothing")])
def test_bytes_that_are_no_picture(thing):
    with pytest.raises(ImageError, match="image given is no picture that Pillow"):
        read_image(thing)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "x.avif", quality=100)
    found = read_image(tmp_path / "x.avif").astype(int)
    assert np.abs(found - picture).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path, orientation):
    path = tmp_path / "x.png"
    image = Image.fromarray(np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3))
    exif = image.getexif()
    exif[274] = orientation
    image.save(path, exif=exif)
    with Image.open(path) as saved:
        wanted = np.asarray(ImageOps.exif_transpose(saved))
    np.testing.assert_array_equal(read_image(path), wanted)


def with_exif(image, path, size_tag):
    """Save with an EXIF block that says "turn a quarter", then a resolution of `size_tag` bytes."""
    entry = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHII", 282, *size_tag)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entry + struct.pack("<I", 0)
    image.save(path, exif=exif)


@pytest.mark.parametrize("entry", [(5, 1, 9999), (7, 3, 9999), (2, 2**31, 26), (99, 1, 1)])
def test_broken_metadata_spoils_no_pixels(tmp_path, entry):
    path = tmp_path / "x.jpg"
    with_exif(Image.new("RGB", (30, 10), "red"), path, entry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own would name its source files
        assert read_image(path).shape == (30, 10, 3)


def test_metadata_that_cannot_be_parsed_is_ignored(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (30, 10)).save(path)

    def fail(self):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_image(path).shape == (10, 30, 3)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("YUV\nfailed"), NotImplementedError("flags 7"), TypeError("abs"), MemoryError()],
)
def test_whatever_a_decoder_raises_is_an_image_error(tmp_path, monkeypatch, error):
    """As AVIF, DDS, JPEG and JPEG 2000 decoders do on damaged files."""
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path)

    def fail(self):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"x\.png is damaged or of a kind") as caught:
        read_image(path)
    assert (str(error).split() or ["MemoryError"])[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_pixel_format_is_an_image_error(tmp_path):
    path = tmp_path / "x.dds"
    Image.new("RGBA", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[80:84] = b"\x80\0\0\x80"  # the pixel format's flags
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"x\.dds is damaged or of a kind"):
        read_image(path)
