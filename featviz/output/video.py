"""Videos, encoded frame by frame."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from featviz.errors import InvalidValue, OutputError
from featviz.output.files import placed
from featviz.output.pictures import check_output, recipe_text, write_sidecar
from featviz.output.pil import to_pil

Frame: TypeAlias = npt.NDArray[np.uint8]
"""`(h, w, 3)`"""

VideoWriter: TypeAlias = Callable[[Path, Iterator[Frame], Fraction], None]
"""Encodes frames into a file at so many frames a second."""

# HD players take untagged video for BT.709, while ffmpeg converts by BT.601: say and use BT.709
_BT709 = (
    "-vf scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv -pix_fmt yuv420p"
)
_SAME_BYTES = "-fflags +bitexact -flags:v +bitexact"

_GIF_FASTEST = 50  # frames a second: browsers slow down what shows a frame for less than 2/100 s


def write_video(
    path: str | Path,
    frames: Iterable[Tensor],
    recipe: Mapping[str, Any],
    *,
    fps: float = 30,
    overwrite: bool = False,
) -> Path:
    """Write frames `(1, 3, h, w)` or `(3, h, w)` as they come, and the recipe to `NAME.json` beside it.

    The recipe is written after the last frame, so that what makes the frames may still mark it.
    .mp4 is H.264 and .webm VP9, where an odd size gets its last row or column twice, since 4:2:0
    chroma needs even numbers. .gif loops for ever, in 256 colours chosen over all frames. Raises
    what `check_output` raises, InvalidValue for no frames or frames of several sizes, and
    OutputError where ffmpeg fails; nothing is then left behind.
    """
    path = check_output(path, overwrite, VIDEO_SUFFIXES)
    suffix = path.suffix.lower()
    fastest = _GIF_FASTEST if suffix == ".gif" else 1000
    if not 0 < fps <= fastest:
        raise InvalidValue(f"{fps:g} frames a second: more than 0, and at most {fastest} for {suffix}")
    recipe_text(recipe)  # a recipe that cannot be written is better refused before the frames are made
    with placed(path, overwrite) as file:
        VIDEO_WRITERS[suffix](file, _pixels(frames), Fraction(fps).limit_denominator(1001))
    write_sidecar(path, recipe, overwrite)
    return path


def _pixels(frames: Iterable[Tensor]) -> Iterator[Frame]:
    size = None
    for frame in frames:
        pixels: Frame = np.asarray(to_pil(frame))
        if size is not None and pixels.shape != size:
            raise InvalidValue(f"a frame of {pixels.shape[:2]} in a video of {size[:2]}")
        size = pixels.shape
        yield pixels


def _write_mp4(file: Path, frames: Iterator[Frame], fps: Fraction) -> None:
    options = f"-c:v libx264 -crf 16 {_BT709} -movflags +faststart {_SAME_BYTES}"
    _encode(file, map(_even, frames), fps, options)


def _write_webm(file: Path, frames: Iterator[Frame], fps: Fraction) -> None:
    options = f"-c:v libvpx-vp9 -crf 20 -b:v 0 -cpu-used 4 -row-mt 1 {_BT709} {_SAME_BYTES}"
    _encode(file, map(_even, frames), fps, options)


def _write_gif(file: Path, frames: Iterator[Frame], fps: Fraction) -> None:
    """One palette for all frames, so that colours do not flicker; it needs every frame first."""
    spool, palette = file.with_name("frames.mkv"), file.with_name("palette.mkv")
    _encode(spool, frames, fps, "-c:v ffv1 -pix_fmt bgr0")
    _ffmpeg("-i {} -vf palettegen=max_colors=256:reserve_transparent=0 -c:v ffv1 {}", spool, palette)
    # an ordered dither stays where it is from frame to frame, error diffusion crawls; scale 3 shows the
    # least grain that still hides the bands of a gradient
    dither = "-lavfi paletteuse=dither=bayer:bayer_scale=3:diff_mode=rectangle"
    _ffmpeg(f"-i {{}} -i {{}} {dither} -loop 0 {_SAME_BYTES} {{}}", spool, palette, file)


VIDEO_WRITERS: dict[str, VideoWriter] = {".mp4": _write_mp4, ".gif": _write_gif, ".webm": _write_webm}

VIDEO_SUFFIXES = tuple(VIDEO_WRITERS)


def _even(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode(file: Path, frames: Iterator[Frame], fps: Fraction, options: str) -> None:
    first = next(frames, None)
    if first is None:
        raise InvalidValue(f"no frames for {file.name}")
    height, width = first.shape[:2]
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    _ffmpeg(f"{source} {options} {{}}", file, feed=chain([first], frames))


def _ffmpeg(arguments: str, *files: Path, feed: Iterable[Frame] = ()) -> None:
    """Run ffmpeg on arguments parted by blanks, where each `{}` stands for the next file."""
    import imageio_ffmpeg

    names = iter(files)
    words = [f"file:{next(names)}" if word == "{}" else word for word in arguments.split()]
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *words]
    except RuntimeError as problem:
        raise OutputError(f"{files[-1].name}: no ffmpeg found to encode it") from problem
    with tempfile.TemporaryFile() as log:
        # a session of its own: Ctrl-C is for us to answer, not for ffmpeg
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        ) as process:
            _feed(process, feed)
        if process.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise OutputError(f"{files[-1].name}: ffmpeg failed: {said[-1]}")


def _feed(process: subprocess.Popen[bytes], frames: Iterable[Frame]) -> None:
    pipe: IO[bytes] | None = process.stdin
    if pipe is None:
        return
    try:
        for frame in frames:
            try:
                pipe.write(frame.tobytes())
            except BrokenPipeError:  # ffmpeg is gone; its exit status tells
                break
        with suppress(BrokenPipeError):
            pipe.close()
    except BaseException:
        process.kill()
        with suppress(OSError):
            pipe.close()
        raise
