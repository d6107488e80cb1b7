"""Videos read back: count, size, colour, speed; nothing half-written, nothing said."""

from __future__ import annotations

import re
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from featviz.errors import InvalidValue, OutputError, OutputExists, RecipeError
from featviz.output.pictures import read_recipe
from featviz.output.video import VIDEO_SUFFIXES, VIDEO_WRITERS, write_video

COLOURS = torch.tensor([[0.8, 0.3, 0.2], [0.2, 0.7, 0.3], [0.25, 0.3, 0.9], [0.5, 0.5, 0.5], [1, 1, 1.0]])


def plain(height: int, width: int, count: int = 5) -> Iterator[torch.Tensor]:
    """One colour a frame."""
    for index in range(count):
        yield COLOURS[index].view(1, 3, 1, 1).expand(1, 3, height, width)


def decoded(path: Path) -> np.ndarray:
    """`(frames, h, w, 3)`"""
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    size = re.search(r", (\d+)x(\d+)", stream(path))
    assert size
    return np.frombuffer(raw, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3)


def stream(path: Path) -> str:
    """What ffmpeg says of the video stream: codec, pixel format, size, frames a second."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", f"file:{path}"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return next(line for line in said.splitlines() if "Video:" in line)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("size", [(32, 48), (33, 47), (50, 70)])
def test_reads_back(
    tmp_path: Path, suffix: str, size: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / f"a b%d:{suffix}", plain(*size), {"é": 1}, fps=10)
    assert capfd.readouterr() == ("", "")
    frames = decoded(path)
    shown = size if suffix == ".gif" else tuple(side + side % 2 for side in size)
    assert frames.shape == (5, *shown, 3)
    expected = (COLOURS * 255).round().numpy()
    np.testing.assert_allclose(frames.mean((1, 2)), expected, atol=4)
    np.testing.assert_allclose(frames[:, -1, -1], expected, atol=6)  # the added row and column
    assert read_recipe(path) == {"é": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, path.name + ".json"]


def test_detail_survives(tmp_path: Path) -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    frames = [torch.stack([(rows / 4 + i).sin() * 0.3 + 0.5, columns / 80, rows / 64]) for i in range(4)]
    wanted = np.stack([frame.permute(1, 2, 0).numpy() * 255 for frame in frames])
    for suffix, mean_error in ((".mp4", 3), (".webm", 5), (".gif", 8)):
        found = decoded(write_video(tmp_path / f"a{suffix}", frames, {}))
        assert np.abs(found[..., 1] - wanted[..., 1]).mean() < mean_error
        assert np.corrcoef(found[..., 0].ravel(), wanted[..., 0].ravel())[0, 1] > 0.9


def test_gif_does_not_flicker(tmp_path: Path) -> None:
    """Where the picture stands still, so does its dither, whatever happens beside it."""
    still = torch.linspace(0.2, 0.8, 40).expand(3, 40, 40) * torch.tensor([1, 0.6, 0.3]).view(3, 1, 1)
    moving = torch.rand(6, 3, 40, 20, generator=torch.Generator().manual_seed(3))
    frames = [torch.cat([still, part], 2) for part in moving]
    found = decoded(write_video(tmp_path / "a.gif", frames, {})).astype(int)
    assert len(found) == 6
    np.testing.assert_array_equal(
        found[:, :, :40], np.broadcast_to(found[:1, :, :40], found[:, :, :40].shape)
    )
    assert np.abs(np.diff(found[:, :, 40:], axis=0)).mean() > 30


def test_gif_loops_at_its_speed(tmp_path: Path) -> None:
    with Image.open(write_video(tmp_path / "a.gif", plain(8, 8), {}, fps=20)) as gif:
        assert gif.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(gif)] == [50] * 5


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_video_runs_at_its_speed(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", plain(32, 32), {}, fps=12.5)
    assert " 12.50 fps" in stream(path)
    assert "yuv420p(tv, bt709, progressive)" in stream(path)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_same_frames_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = (write_video(tmp_path / f"{name}{suffix}", plain(32, 32), {}) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_frames_are_not_kept(tmp_path: Path, suffix: str) -> None:
    """Each frame is gone from memory when the one after the next is made."""
    made: list[weakref.ref[torch.Tensor]] = []

    def frames() -> Iterator[torch.Tensor]:
        for _ in range(12):
            assert sum(frame() is not None for frame in made) <= 2
            frame = torch.rand(3, 16, 16)
            made.append(weakref.ref(frame))
            yield frame

    write_video(tmp_path / f"a{suffix}", frames(), {})
    assert len(made) == 12


def test_recipe_may_change_until_the_last_frame(tmp_path: Path) -> None:
    recipe: dict[str, object] = {}

    def frames() -> Iterator[torch.Tensor]:
        yield from plain(16, 16, 2)
        recipe["interrupted"] = True

    assert read_recipe(write_video(tmp_path / "a.gif", frames(), recipe)) == {"interrupted": True}


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("problem", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("after", [0, 3])
def test_failing_frames_leave_nothing(
    tmp_path: Path, suffix: str, problem: type[BaseException], after: int
) -> None:
    def frames() -> Iterator[torch.Tensor]:
        yield from plain(400, 400, after)
        raise problem

    with pytest.raises(problem):
        write_video(tmp_path / f"a{suffix}", frames(), {})
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"known: \.mp4"):
        write_video(tmp_path / "a.png", plain(8, 8), {})
    with pytest.raises(InvalidValue, match=r"no frames for a\.mp4"):
        write_video(tmp_path / "a.mp4", [], {})
    with pytest.raises(InvalidValue, match=r"\(8, 9\) in a video of \(8, 8\)"):
        write_video(tmp_path / "a.mp4", [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], {})
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidValue, match="frames a second"):
            write_video(tmp_path / "a.mp4", plain(8, 8), {}, fps=fps)
    with pytest.raises(InvalidValue, match="at most 50"):
        write_video(tmp_path / "a.gif", plain(8, 8), {}, fps=60)
    with pytest.raises(RecipeError):
        write_video(tmp_path / "a.mp4", plain(8, 8), {"x": object()})
    assert not list(tmp_path.iterdir())


def test_existing_output_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExists):
        write_video(path, plain(8, 8), {})
    assert path.read_bytes() == b"precious"
    write_video(path, plain(32, 32), {"a": 1}, overwrite=True)
    write_video(path, plain(32, 32), {"a": 2}, overwrite=True)
    assert len(decoded(path)) == 5
    assert read_recipe(path) == {"a": 2}


def test_ffmpeg_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fake = Path(folder) / "ffmpeg"
        fake.write_text("#!/bin/sh\necho 'Conversion failed!' >&2\nexit 3\n")
        fake.chmod(0o755)
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(fake))
        with pytest.raises(OutputError, match=r"a\.mp4: ffmpeg failed: Conversion failed!"):
            write_video(tmp_path / "a.mp4", plain(400, 400), {})
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_no_ffmpeg_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(OutputError, match="no ffmpeg found"):
        write_video(tmp_path / "a.mp4", plain(8, 8), {})


def test_suffixes_are_the_writers() -> None:
    assert tuple(VIDEO_WRITERS) == VIDEO_SUFFIXES and ".mp4" in VIDEO_SUFFIXES and ".gif" in VIDEO_SUFFIXES
