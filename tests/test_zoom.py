"""The zoom: frames of one size, magnified about the middle, that do not burn out."""

import torch

from featviz.settings import DreamSettings
from featviz.zoom import frame_steps, like_contrast, magnify, zoom_frames


def test_magnify_doubles_about_the_middle():
    image = torch.zeros(1, 3, 40, 60)
    image[..., 15:25, 20:40] = 1  # the middle half gets twice as large
    made = magnify(image, 2.0)
    assert made.shape == image.shape
    expected = torch.zeros(40, 60)
    expected[10:30, 10:50] = 1
    assert (made[0, 0] - expected).abs().mean() < 0.03


def test_contrast_is_brought_back_but_never_raised():
    generator = torch.Generator().manual_seed(0)
    wild, calm = (
        torch.rand(1, 3, 30, 30, generator=generator),
        0.4 + 0.1 * torch.rand(1, 3, 30, 30, generator=generator),
    )
    made = like_contrast(wild, calm)
    torch.testing.assert_close(made.mean((2, 3)), calm.mean((2, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.std((2, 3)), calm.std((2, 3)), atol=1e-3, rtol=0)
    assert like_contrast(calm, wild).std() < 1.1 * calm.std()


def test_frames_keep_size_and_contrast(tiny, small_photo):
    settings = DreamSettings(zoom=4, steps=4, octaves=1, strength=3)
    found = list(zoom_frames(tiny, small_photo, "conv2", settings))
    frames = [image for _, _, image in found if image is not None]
    assert len(frames) == 4 and all(frame.shape == small_photo.shape for frame in frames)
    assert len(found) == 4 + 3 * 1 == sum(frame_steps(settings, k) for k in (1, 2, 3, 4))
    assert all(frame.std() < 1.1 * frames[0].std() for frame in frames)
