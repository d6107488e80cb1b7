"""Dreams: octaves, masks, colour, tiles, guides."""

import pytest
import torch
from conftest import tiny_model

from featviz.deepdream import dream, guided, keep_color, octave_sizes, picture
from featviz.errors import ImageTooSmall, InvalidValue
from featviz.layers import activations, score
from featviz.settings import DreamSettings
from featviz.sizes import resize
from featviz.targets import objective_of


def dreamed(model, photo, target="conv2", mask=None, guide=None, **settings):
    """The finished picture of a short dream."""
    made = DreamSettings(**{"steps": 2, "octaves": 2, **settings})
    for step in dream(model, photo, target, made, guide=guide, mask=mask):
        last = step
    return picture(photo, last, made, mask)


@pytest.fixture
def photo(small_photo):
    return small_photo


def test_octaves_shrink_by_the_scale_down_to_the_limits():
    sizes = octave_sizes((400, 600), DreamSettings(octaves=3, octave_scale=2.0))
    assert sizes == [(100, 150), (200, 300), (400, 600)]
    ours = octave_sizes((512, 512), DreamSettings())
    assert len(ours) == 4 and ours[-1] == (512, 512) and min(ours[0]) == round(512 / 1.4**3)
    huge = octave_sizes((4000, 6000), DreamSettings())
    assert 160 <= min(huge[0]) < 160 * 1.4 and len(huge) == 10
    assert octave_sizes((50, 40), DreamSettings()) == [(50, 40)]


def test_a_dream_raises_the_objective_and_keeps_the_size(embedded, chelsea):
    photo = resize(chelsea, (150, 225))
    made = dreamed(embedded, photo, "layer3", steps=4)
    measured = score(embedded, objective_of(embedded, "layer3"))
    with torch.no_grad():
        assert float(measured(made)) > 1.5 * float(measured(photo))
    assert made.shape == photo.shape and made.min() >= 0 and made.max() <= 1
    assert 0.01 < (made - photo).abs().mean() < 0.3


def test_the_same_seed_gives_the_same_picture_and_another_another(tiny, photo):
    first, again, other = (dreamed(tiny, photo, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_strength_is_the_size_of_the_change(tiny, photo):
    weak, strong = (
        (dreamed(tiny, photo, strength=s, octaves=1, steps=1) - photo).abs().mean() for s in (0.25, 1.0)
    )
    assert 3 < strong / weak < 4.5  # one step; less than 4 where pixels end at 0 or 1


def test_detail_is_carried_from_octave_to_octave(tiny, photo):
    """With no steps to speak of at full size, what the small octave dreamed is still there."""
    settings = DreamSettings(steps=1, octaves=2, octave_scale=2.0)
    small, full = list(dream(tiny, photo, "conv2", settings))
    carried = resize(small.image - resize(photo, (32, 48)), (64, 96))
    change = full.image - photo
    together = torch.nn.functional.cosine_similarity(carried.flatten(), change.flatten(), dim=0)
    assert together > 0.4


def test_an_interrupted_dream_is_the_photo_plus_the_detail_so_far(tiny, photo):
    settings = DreamSettings(steps=1, octaves=2, octave_scale=2.0)
    first = next(iter(dream(tiny, photo, "conv2", settings)))
    made = picture(photo, first, settings)
    detail = first.image - torch.nn.functional.interpolate(photo, (32, 48), mode="bilinear", antialias=True)
    whole = torch.nn.functional.interpolate(detail, (64, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(made, (photo + whole).clamp(0, 1))


def test_outside_the_mask_the_picture_is_the_photo(tiny, photo):
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :40] = 1
    made = dreamed(tiny, photo, mask=mask)
    assert torch.equal(made[..., 40:], photo[..., 40:])
    assert (made - photo)[..., :38].abs().mean() > 0.005


def test_keep_color_keeps_the_chroma():
    generator = torch.Generator().manual_seed(0)
    photo = 0.4 + 0.2 * torch.rand(1, 3, 8, 8, generator=generator)
    image = 0.4 + 0.2 * torch.rand(1, 3, 8, 8, generator=generator)
    made = keep_color(photo, image)

    def ycbcr(rgb):
        r, g, b = rgb.unbind(1)
        y = 0.299 * r + 0.587 * g + 0.114 * b
        return y, 0.564 * (b - y), 0.713 * (r - y)

    torch.testing.assert_close(ycbcr(made)[0], ycbcr(image)[0], atol=1e-5, rtol=0)
    for ours, theirs in zip(ycbcr(made)[1:], ycbcr(photo)[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_decay_fades_the_dream(tiny, photo):
    plain, faded = ((dreamed(tiny, photo, decay=d, steps=6) - photo).abs().mean() for d in (0.0, 0.5))
    assert faded < 0.6 * plain


def test_total_variation_smooths(tiny, photo):
    def variation(image):
        return (image[..., 1:] - image[..., :-1]).abs().mean()

    plain, smooth = (dreamed(tiny, photo, tv=w, steps=8) for w in (0.0, 30.0))
    assert variation(smooth) < 0.9 * variation(plain)


def test_a_guide_draws_the_picture_to_its_features(embedded, chelsea):
    photo = torch.full((1, 3, 128, 128), 0.5)
    guide = resize(chelsea, (128, 192))
    made = dreamed(embedded, photo, "layer2", guide=guide, steps=4)
    objective = guided(embedded, "layer2", guide)
    with torch.no_grad():
        before, after = (float(score(embedded, objective)(image)) for image in (photo, made))
    assert after > 1.2 * before


def test_a_guide_with_a_channel_is_refused(tiny, photo):
    with pytest.raises(InvalidValue, match="whole layers"):
        dream(tiny, photo, "conv2:1", DreamSettings(), guide=photo)


def test_tiles_leave_no_seams(embedded, chelsea):
    """Differences across the borders of one grid of tiles are no larger than elsewhere."""
    photo = resize(chelsea, (260, 390))
    made = dreamed(embedded, photo, "layer2", tile="200", octaves=1, steps=6)
    change = (made - photo).abs().mean(1)[0]
    rows = (change[1:] - change[:-1]).abs().mean(1)
    columns = (change[:, 1:] - change[:, :-1]).abs().mean(0)
    for jumps in (rows, columns):
        assert jumps.max() < 3 * jumps.median()
    whole = dreamed(embedded, photo, "layer2", tile="none", octaves=1, steps=6)
    assert 0.5 < change.mean() / (whole - photo).abs().mean() < 2


def test_an_octave_too_small_for_the_layer_is_refused_when_asked_for_and_dropped_otherwise(photo):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2), torch.nn.MaxPool2d(7, 7), torch.nn.Conv2d(4, 2, 3), torch.nn.ReLU()
    )
    model = tiny_model().__class__(net, "pooled", input_size=(224, 224))
    big = resize(photo, (90, 135))
    with pytest.raises(ImageTooSmall):
        dream(model, big, "3", DreamSettings(octaves=5))
    assert max(step.octaves for step in dream(model, big, "3", DreamSettings(steps=1))) == 2


def test_the_network_is_left_as_found(photo):
    model = tiny_model()
    model.net.train()
    for parameter in model.net.parameters():
        parameter.requires_grad_(True)
    steps = dream(model, photo, "conv2", DreamSettings(steps=2, octaves=1))
    next(steps)
    assert not model.net.training
    steps.close()  # as when a watcher ends it
    assert model.net.training and all(p.requires_grad and p.grad is None for p in model.net.parameters())
    assert not any(m._forward_hooks for m in model.net.modules())
    assert activations(model, photo, ["conv2"])["conv2"].requires_grad
