import numpy as np
import pytest
import torch
from conftest import unit_images

from featviz.errors import (
    AmbiguousName,
    ChannelOutOfRange,
    ClassNotFound,
    InvalidValue,
    LayerNotFound,
    PositionOutOfRange,
    TargetSyntax,
)
from featviz.layers import activations, score
from featviz.targets import Unit, objective_of, parse_target


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("layer3", [Unit(layer="layer3")]),
        ("  layer3  ", [Unit(layer="layer3")]),
        ("layer4.2.relu#1", [Unit(layer="layer4.2.relu#1")]),
        ("layer3:97", [Unit(layer="layer3", channel=97)]),
        ("layer3:97@7,8", [Unit(layer="layer3", channel=97, position=(7, 8))]),
        ("layer3:97@middle", [Unit(layer="layer3", channel=97, position="middle")]),
        ("0:3", [Unit(layer="0", channel=3)]),
        ('"my layer":3', [Unit(layer="my layer", channel=3)]),
        ("class:tabby", [Unit(class_="tabby")]),
        ("class:281", [Unit(class_="281")]),
        ('class:"tiger cat"', [Unit(class_="tiger cat")]),
        ("class:black-footed", [Unit(class_="black-footed")]),
        ("-layer3", [Unit(-1.0, layer="layer3")]),
        ("0.5*layer3", [Unit(0.5, layer="layer3")]),
        (".5 * layer3:2", [Unit(0.5, layer="layer3", channel=2)]),
        ("layer3:2 * 1e-2", [Unit(0.01, layer="layer3", channel=2)]),
        ("2*layer3*3", [Unit(6.0, layer="layer3")]),
        ("-2*layer3 - 3*class:tabby", [Unit(-2.0, layer="layer3"), Unit(-3.0, class_="tabby")]),
        ("a+b", [Unit(layer="a"), Unit(layer="b")]),
        ("a-b", [Unit(layer="a-b")]),  # names hold hyphens
        ("a -b", [Unit(layer="a"), Unit(-1.0, layer="b")]),
        (
            '0.5*layer2:3 + class:"tiger cat"',
            [Unit(0.5, layer="layer2", channel=3), Unit(class_="tiger cat")],
        ),
        ("layer3:7@1,2 + layer3:8", [Unit(1.0, None, "layer3", 7, (1, 2)), Unit(layer="layer3", channel=8)]),
        ("layer3:way.npy", [Unit(layer="layer3", direction="way.npy")]),
        ('layer3:"my dir/way.pt"', [Unit(layer="layer3", direction="my dir/way.pt")]),
        ("layer3:3d.npy", [Unit(layer="layer3", direction="3d.npy")]),
    ],
)
def test_grammar(text, units):
    assert parse_target(text) == units


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("", 1, "expected a layer or class:NAME, the target ends"),
        ("   ", 4, "the target ends"),
        ("+layer3", 1, "found '+'"),
        ("layer3 +", 9, "the target ends"),
        ("layer3 + + layer4", 10, "found '+'"),
        ("layer3 layer4", 8, "expected + or -, found 'l'"),
        ("layer3:", 8, "expected a channel number, or a direction's .npy or .pt file, the target ends"),
        ("layer3:x", 8, "expected a channel number or a .npy or .pt file, found 'x'"),
        ("layer3:-1", 8, "found '-1'"),
        ("layer3:1.5", 8, "found '1.5'"),
        ("layer3:97@", 11, "expected a row number, the target ends"),
        ("layer3:97@7", 12, "','"),
        ("layer3:97@7,", 13, "expected a column number"),
        ("layer3:97@7,x", 13, "expected a column number, found 'x'"),
        ("class:", 7, "expected a class number or name, the target ends"),
        ('class:"tiger cat', 7, "found '\"'"),
        ("layer3*", 8, "expected a number after *"),
        ("layer3*x", 8, "expected a number after *, found 'x'"),
        ("2*", 3, "expected a layer"),
        ("class:tiger cat", 13, "expected + or -, found 'c'"),
    ],
)
def test_a_refusal_marks_its_column(text, column, told):
    with pytest.raises(TargetSyntax) as caught:
        parse_target(text)
    assert caught.value.column == column
    message = str(caught.value)
    assert told in message and f"column {column}:" in message
    assert message.endswith(text[: column - 1] + "⟨here⟩" + text[column - 1 :])


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("layr3", LayerNotFound, "no layer 'layr3'; nearest: "),
        ("conv2:8", ChannelOutOfRange, "channel 8 of conv2: it has 8, so 0 to 7"),
        ("relu:1", AmbiguousName, "relu#0, relu#1, relu#2"),
        ("class:5", ClassNotFound, "5"),
        ("class:wolf", ClassNotFound, "wolf"),
        ("class:fox", AmbiguousName, "red fox.*kit fox"),
        ('"":3', LayerNotFound, "no layer ''"),
    ],
)
def test_names_nobody_has(tiny, text, error, told):
    with pytest.raises(error, match=told):
        objective_of(tiny, text)


def test_a_position_outside_the_map(tiny):
    measured = score(tiny, objective_of(tiny, "conv2:3@4,0"))
    with pytest.raises(
        PositionOutOfRange, match=r"neuron @4,0 of conv2: its map is 4 rows by 6 columns, .*@3,5"
    ):
        measured(unit_images(1, 3, 32, 48))


def by_hand(model, image):
    acts = activations(model, image, ["conv1", "conv2", "relu#2", ""])
    return {name: value.detach() for name, value in acts.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv2", lambda a: (a["conv2"] ** 2).mean((1, 2, 3))),
        ("conv2:3", lambda a: a["conv2"][:, 3].mean((1, 2))),
        ("conv2:3@1,4", lambda a: a["conv2"][:, 3, 1, 4]),
        ("conv2:3@middle", lambda a: a["conv2"][:, 3, 2, 3]),
        ("class:2", lambda a: a[""][:, 2]),
        ("class:dog", lambda a: a[""][:, 2]),
        ("class:tiger", lambda a: a[""][:, 1]),  # a part of one name only
        ('class:"red fox"', lambda a: a[""][:, 3]),
        ("-conv2:3", lambda a: -a["conv2"][:, 3].mean((1, 2))),
        (
            "0.5*conv1:2 - 3*class:tabby + conv2:1*2",
            lambda a: (
                0.5 * a["conv1"][:, 2].mean((1, 2)) - 3 * a[""][:, 0] + 2 * a["conv2"][:, 1].mean((1, 2))
            ),
        ),
        ("conv2:1 + conv2:1", lambda a: 2 * a["conv2"][:, 1].mean((1, 2))),
    ],
)
def test_a_target_measures_what_it_says(tiny, text, expected):
    image = unit_images(2, 3, 32, 48)
    torch.testing.assert_close(score(tiny, objective_of(tiny, text))(image), expected(by_hand(tiny, image)))


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (8, 1, 1)])
def test_directions_from_files(tiny, tmp_path, suffix, shape):
    vector = np.linspace(-1, 2, 8)
    file = tmp_path / f"way there{suffix}"
    if suffix == ".npy":
        np.save(file, vector.reshape(shape))
    else:
        torch.save(torch.from_numpy(vector.reshape(shape)), file)
    image = unit_images(2, 3, 32, 32)
    maps = by_hand(tiny, image)["conv2"].double().numpy()
    expected = np.einsum("bchw,c->bhw", maps, vector).mean((1, 2))
    found = score(tiny, objective_of(tiny, f'conv2:"{file}"'))(image)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_directions_that_cannot_be_used(tiny, tmp_path):
    np.save(tmp_path / "seven.npy", np.ones(7))
    np.save(tmp_path / "square.npy", np.ones((8, 8)))
    np.save(tmp_path / "pickled.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    torch.save(Evil(), tmp_path / "evil.pt")
    torch.save({"a": torch.ones(8)}, tmp_path / "dict.pt")
    (tmp_path / "text.npy").write_text("hello")
    for name, told in {
        "seven.npy": "has 7 values, conv2 has 8 channels",
        "square.npy": "has 8x8 values",
        "pickled.npy": "cannot be read",
        "evil.pt": "cannot be read",
        "dict.pt": "cannot be read",
        "text.npy": "cannot be read",
        "missing.npy": "cannot be read",
    }.items():
        with pytest.raises(InvalidValue, match=told) as caught:
            objective_of(tiny, f"conv2:{tmp_path / name}")
        assert name in str(caught.value)
