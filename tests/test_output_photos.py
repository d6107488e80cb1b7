"""Photos of every kind, against arrays laid out by hand and formulas of the standards."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from featviz.errors import InvalidValue, PhotoError
from featviz.output.photos import find_photos, read_photo
from featviz.output.pil import from_pil, to_pil

RANDOM = np.random.default_rng(7)


def noise(*shape: int, top: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(0, top, size=shape, endpoint=True).astype(dtype)


def levels(tensor: torch.Tensor) -> np.ndarray:
    """`(1, c, h, w)` in [0, 1] -> `(h, w, c)` on the scale of 255, as floats."""
    return tensor[0].permute(1, 2, 0).double().numpy() * 255


def save(folder: Path, name: str, pil: Image.Image, **options: object) -> Path:
    pil.save(folder / name, **options)
    return folder / name


def test_values_shape_and_digest(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    path = save(tmp_path, "a.png", Image.fromarray(pixels))
    photo = read_photo(str(path))
    assert photo.image.shape == (1, 3, 5, 7) and photo.image.dtype == torch.float32
    np.testing.assert_array_equal(photo.image[0].permute(1, 2, 0).numpy(), pixels / np.float32(255))
    assert photo.alpha is None
    assert photo.path == str(path)
    assert photo.digest == hashlib.sha256(path.read_bytes()).hexdigest()


# what a camera stores for an upright picture u, from the table of EXIF 2.3, tag 0x0112
STORED = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: np.rot90(u, 1),
    7: lambda u: np.rot90(u, 2).swapaxes(0, 1),
    8: lambda u: np.rot90(u, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.kron(noise(3, 2, 3), np.ones((16, 16, 1), np.uint8))  # 48 x 32, whole JPEG blocks
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    photo = read_photo(save(tmp_path, f"a.{suffix}", stored, exif=exif, **options))
    assert photo.image.shape == (1, 3, 48, 32)
    np.testing.assert_allclose(levels(photo.image), upright, atol=3 if suffix == "jpg" else 1e-3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_stripes_meet(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featviz.output.pil._STRIPE", 3 * 11)
    upright = noise(17, 11, 3)
    pil = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    pil.getexif()[0x0112] = orientation
    image, _ = from_pil(pil)
    np.testing.assert_allclose(levels(image), upright, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(to_pil(image)), upright)


def test_alpha(tmp_path: Path) -> None:
    pixels = noise(6, 4, 4)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(pixels)))
    np.testing.assert_allclose(levels(photo.image), pixels[..., :3], atol=1e-3)
    assert photo.alpha is not None and photo.alpha.shape == (1, 1, 6, 4)
    np.testing.assert_allclose(levels(photo.alpha), pixels[..., 3:], atol=1e-3)


def test_gray_with_alpha(tmp_path: Path) -> None:
    pixels = noise(6, 4, 2)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(pixels, "LA")))
    np.testing.assert_allclose(levels(photo.image), np.repeat(pixels[..., :1], 3, 2), atol=1e-3)
    assert photo.alpha is not None
    np.testing.assert_allclose(levels(photo.alpha), pixels[..., 1:], atol=1e-3)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_transparency(tmp_path: Path, suffix: str) -> None:
    colours, indices = noise(4, 3), np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    pil = Image.fromarray(indices, "P")
    pil.putpalette(colours.tobytes())
    photo = read_photo(save(tmp_path, f"a.{suffix}", pil, transparency=2))
    seen = indices != 2
    np.testing.assert_allclose(levels(photo.image)[seen], colours[indices][seen], atol=1e-3)
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha[0, 0].numpy(), seen)


def test_palette_and_one_bit(tmp_path: Path) -> None:
    colours, indices = noise(4, 3), np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    pil = Image.fromarray(indices, "P")
    pil.putpalette(colours.tobytes())
    photo = read_photo(save(tmp_path, "p.png", pil))
    np.testing.assert_allclose(levels(photo.image), colours[indices], atol=1e-3)
    assert photo.alpha is None
    bits = indices % 2 == 1
    photo = read_photo(save(tmp_path, "b.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(photo.image[0].numpy(), np.stack([bits] * 3))


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    photo = read_photo(save(tmp_path, "a.gif", first, save_all=True, append_images=[second]))
    np.testing.assert_array_equal(photo.image[0, :, 0, 0].numpy(), [1, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    values = noise(5, 6, top=65535, dtype=np.uint16)
    values[0, :3] = 0, 257, 65535
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 6 5 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    photo = read_photo(path)
    gray = photo.image[0].double().numpy()
    np.testing.assert_allclose(gray, np.stack([values / 65535] * 3), atol=1e-6)


def test_sixteen_bits_with_one_transparent_value(tmp_path: Path) -> None:
    values = np.array([[0, 700], [65535, 700]], np.uint16)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(values), transparency=700))
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha[0, 0].numpy(), [[1, 0], [1, 0]])


def test_thirty_two_bits(tmp_path: Path) -> None:
    wide = np.array([[0, 2**30, 2**31 - 1]], np.int32)
    photo = read_photo(save(tmp_path, "a.tif", Image.fromarray(wide)))
    np.testing.assert_allclose(photo.image[0, 0].numpy(), [[0, 0.5, 1]], atol=1e-6)
    narrow = np.array([[0, 32768, 65535]], np.int32)  # 16 bits in a wider file
    photo = read_photo(save(tmp_path, "b.tif", Image.fromarray(narrow)))
    np.testing.assert_allclose(photo.image[0, 0].numpy(), [[0, 32768 / 65535, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ([0, 0.25, 1], [0, 0.25, 1]),
        ([-0.5, 0.25, 1.2], [0, 0.25, 1]),
        ([0, 51, 255], [0, 0.2, 1]),
        ([0, 100, 400], [0, 100 / 65535, 400 / 65535]),
        ([np.nan, 0.5, 1], [0, 0.5, 1]),
    ],
)
def test_floats(tmp_path: Path, stored: list[float], shown: list[float]) -> None:
    photo = read_photo(save(tmp_path, "a.tif", Image.fromarray(np.array([stored], np.float32))))
    np.testing.assert_allclose(photo.image[0, 1].numpy(), [shown], atol=1e-6)


def test_progressive_jpeg_and_webp(tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.arange(40) * 6, np.arange(30) * 8), 2)
    pixels = np.concatenate([smooth, 255 - smooth[..., :1]], 2).astype(np.uint8)
    jpeg = save(tmp_path, "a.jpg", Image.fromarray(pixels), progressive=True, quality=98, subsampling=0)
    np.testing.assert_allclose(levels(read_photo(jpeg).image), pixels, atol=6)
    webp = save(tmp_path, "a.webp", Image.fromarray(pixels), lossless=True)
    np.testing.assert_allclose(levels(read_photo(webp).image), pixels, atol=1e-3)


def test_cmyk_without_profile(tmp_path: Path) -> None:
    inks = np.zeros((16, 64, 4), np.uint8)  # four fields: paper, cyan, black, half yellow
    inks[:, 16:32, 0] = inks[:, 32:48, 3] = 255
    inks[:, 48:, 2] = 128
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 255, 127]]
    for name in ("a.jpg", "a.tif"):
        path = save(tmp_path, name, Image.fromarray(inks, "CMYK"), quality=100)
        np.testing.assert_allclose(levels(read_photo(path).image)[8, 8::16], expected, atol=4)


def icc_profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC profile of version 2.4 (ICC.1:2001-04, clause 6)."""
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50 as s15Fixed16
    tags = {b"wtpt": b"XYZ \0\0\0\0" + white, **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">2I", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2001, 4, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_icc_swapped_primaries(tmp_path: Path) -> None:
    """A space that is sRGB with red and blue exchanged shows (r, g, b) as sRGB's (b, g, r)."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    assert swapped != srgb
    pixels = noise(8, 8, 4)
    for suffix, mode in (("png", "RGB"), ("tif", "RGB"), ("webp", "RGB"), ("png", "RGBA")):
        pil = Image.fromarray(pixels).convert(mode)
        options = {"lossless": True} if suffix == "webp" else {}
        photo = read_photo(save(tmp_path, f"a.{suffix}", pil, icc_profile=swapped, **options))
        np.testing.assert_allclose(levels(photo.image), pixels[..., 2::-1], atol=2)
        assert (photo.alpha is not None) == (mode == "RGBA")


def test_icc_equals_imagecms(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    index = profile.index(b"gXYZ")
    offset = struct.unpack(">I", profile[index + 4 : index + 8])[0] + 8
    greener = struct.pack(">3i", 13000, 41000, 5000)  # a wider green, as in Adobe RGB
    profile = profile[:offset] + greener + profile[offset + 12 :]
    pil = Image.fromarray(noise(32, 32, 3))
    photo = read_photo(save(tmp_path, "a.png", pil, icc_profile=profile))
    (tmp_path / "wide.icc").write_bytes(profile)
    source = ImageCms.ImageCmsProfile(str(tmp_path / "wide.icc"))
    expected = np.asarray(ImageCms.profileToProfile(pil, source, ImageCms.createProfile("sRGB")))
    assert np.abs(expected.astype(int) - np.asarray(pil)).max() > 10
    np.testing.assert_allclose(levels(photo.image), expected, atol=1e-3)


def test_icc_linear_gray(tmp_path: Path) -> None:
    """Linear light v shows as sRGB's 1.055 v^(1/2.4) - 0.055 (IEC 61966-2-1)."""
    linear = icc_profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})
    values = np.array([[16, 64, 128, 200, 255]], np.uint8)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(values), icc_profile=linear))
    expected = 255 * (1.055 * (values / 255) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(levels(photo.image)[..., 0], expected, atol=2)


def test_icc_cmyk(tmp_path: Path) -> None:
    """A press whose cyan, magenta and yellow leave no trace: its profile shows them as paper."""
    ramp = bytes(range(256))
    corners = b"".join(
        bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16)
    )  # black varies first
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + ramp * 4 + corners + ramp * 3
    press = icc_profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut})
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 0] = inks[:, 32:, 3] = 255
    for name in ("a.tif", "a.jpg"):
        path = save(tmp_path, name, Image.fromarray(inks, "CMYK"), icc_profile=press, quality=100)
        shown = levels(read_photo(path).image)[8, 8::16]
        np.testing.assert_allclose(shown, [[255] * 3, [255] * 3, [0] * 3], atol=4)


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200])
def test_broken_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    pixels = noise(4, 4, 3)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(pixels), icc_profile=profile))
    np.testing.assert_allclose(levels(photo.image), pixels, atol=1e-3)


def test_profile_of_another_kind_is_ignored(tmp_path: Path) -> None:
    linear = icc_profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})
    pixels = noise(4, 4, 3)
    photo = read_photo(save(tmp_path, "a.png", Image.fromarray(pixels), icc_profile=linear))
    np.testing.assert_allclose(levels(photo.image), pixels, atol=1e-3)


def test_memory_is_one_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, "a.png", Image.new("RGB", (4000, 1500), "teal"), exif=exif)
    tracemalloc.start()  # sees numpy's arrays, not Pillow's own picture
    read_photo(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 1500 * 3 * 4 + 2**20 * (3 * 4 + 3 * 3 + 4) + 2**22


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header says any size at all (1 bit gray)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_decompression_bomb(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(60000, 60000))
    with pytest.raises(PhotoError, match=r"bomb\.png: 3,600 megapixels is over the limit of 179"):
        read_photo(tmp_path / "bomb.png")


def test_large_picture_below_the_limit_reads_without_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # a picture of 64 warns, from 121 on it is refused
    path = tmp_path / "a.png"
    path.write_bytes(png_of(8, 8, b"\0\xff" * 8))
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert read_photo(path).image.min() == 1
    assert not seen


def refusal(path: Path) -> str:
    with pytest.raises(PhotoError) as caught:
        read_photo(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_names_the_nearest(tmp_path: Path) -> None:
    save(tmp_path, "holiday.jpg", Image.new("RGB", (2, 2)))
    assert "nearest: holiday.jpg" in refusal(tmp_path / "holliday.jpg")
    assert "no folder" in refusal(tmp_path / "nowhere" / "a.jpg")


def test_not_a_photo(tmp_path: Path) -> None:
    assert "directory" in refusal(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in refusal(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("This is a text.")
    assert "not an image" in refusal(tmp_path / "text.jpg")
    (tmp_path / "page.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage"
    )
    assert "not an image" in refusal(tmp_path / "page.eps")  # no PostScript is run
    refusal(Path(f"{tmp_path}/nul\0.jpg"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(tmp_path, f"a.{suffix}", Image.fromarray(noise(64, 64, 3)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    refusal(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "a.png", Image.new("RGB", (2, 2)))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "permission denied" in refusal(path)


def test_find_photos(tmp_path: Path) -> None:
    folder = tmp_path / "album"
    (folder / "inner.png").mkdir(parents=True)
    for name in ("b10.jpg", "b2.JPG", "a.png", "notes.txt", ".hidden.png", "film.mpg", "page.pdf", "c.webp"):
        (folder / name).write_bytes(b"x")
    single = tmp_path / "zebra.xyz"
    single.write_bytes(b"x")
    found = find_photos([single, str(folder), folder / "b10.jpg"])
    names = [str(path.relative_to(tmp_path)) for path in found]
    inside = ["album/a.png", "album/b2.JPG", "album/b10.jpg", "album/c.webp"]
    assert names == ["zebra.xyz", *inside, "album/b10.jpg"]


def test_find_photos_refuses(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match=r"no photo in the folder .*empty"):
        find_photos([tmp_path / "empty"])
    with pytest.raises(PhotoError, match=r"no file .*emty; nearest: empty"):
        find_photos([tmp_path / "emty"])


def test_to_pil_rounds_and_clips() -> None:
    row = torch.tensor([-0.2, 0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 1, 1.7])
    expected = [0, 0, 0, 1, 128, 254, 255, 255]
    image = row.expand(1, 3, 2, 8)
    for given in (image, image[0], image.double(), image.clone().requires_grad_()):
        np.testing.assert_array_equal(
            np.asarray(to_pil(given)), np.tile(np.array(expected)[None, :, None], (2, 1, 3))
        )
    every = torch.arange(256).expand(1, 3, 1, 256) / 255
    np.testing.assert_array_equal(np.asarray(to_pil(every))[0, :, 1], np.arange(256))


def test_to_pil_with_alpha() -> None:
    pixels = torch.from_numpy(noise(3, 5, 4)).permute(2, 0, 1)[None] / 255
    pil = to_pil(pixels[:, :3], pixels[:, 3:])
    assert pil.mode == "RGBA"
    np.testing.assert_allclose(np.asarray(pil), levels(pixels), atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (4, 4), (1, 4, 4, 4)])
def test_to_pil_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match="shape"):
        to_pil(torch.zeros(shape))


def test_to_pil_refuses_alpha_of_another_size() -> None:
    with pytest.raises(InvalidValue, match="alpha"):
        to_pil(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 5))
