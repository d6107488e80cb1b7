import json

import pytest

from featviz.errors import AmbiguousName, ClassNotFound, InvalidValue
from featviz.models.labels import class_index, imagenet_labels, read_labels

LABELS = ("tabby", "tiger cat", "Egyptian cat", "tiger", "catamaran", "pickup", "jack-o'-lantern", "ice_bear")


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (3, 3),
        ("3", 3),
        ("TABBY", 0),
        ("tiger", 3),  # whole name, though tiger cat has it too
        ("Tiger_Cat", 1),
        ("tiger-cat", 1),
        ("egyptian", 2),
        ("maran", 4),
        ("jack o' lantern", 6),
        ("ice bear", 7),
        (" pickup ", 5),
    ],
)
def test_what_a_query_means(query, index):
    assert class_index(LABELS, query, len(LABELS)) == index


def test_imagenet_names():
    labels = imagenet_labels()
    assert len(labels) == 1000
    for name, index in {"tench": 0, "tabby": 281, "tiger cat": 282, "bull mastiff": 243, "ear": 998}.items():
        assert class_index(labels, name, 1000) == index
    assert class_index(labels, "crane", 1000) == 517  # the machine; the bird is "crane bird", 134
    with pytest.raises(AmbiguousName, match=r"'bear' names \d+: brown bear \(294\), "):
        class_index(labels, "bear", 1000)


def test_synonyms_after_commas_are_names():
    labels = ("tiger, Panthera tigris", "tiger cat", "tabby, tabby cat")
    assert class_index(labels, "tiger", 3) == 0
    assert class_index(labels, "panthera tigris", 3) == 0


def test_several_are_listed_with_their_numbers():
    with pytest.raises(AmbiguousName, match=r"'cat' names 2: tiger cat \(1\), Egyptian cat \(2\)"):
        class_index(LABELS, "cat", len(LABELS))  # whole words only: catamaran is not among them


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (8, "8, so 0 to 7"),
        (-1, "0 to 7"),
        ("1000", "0 to 7"),
        ("tabbi", "nearest: tabby"),
        ("", "no class ''"),
    ],
)
def test_a_class_that_is_not_there(query, told):
    with pytest.raises(ClassNotFound, match=told):
        class_index(LABELS, query, len(LABELS))


def test_without_names_only_numbers():
    assert class_index((), "4", 10) == 4
    with pytest.raises(ClassNotFound, match="no class names; say 0 to 9"):
        class_index((), "cat", 10)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog\n"),
        ("b.txt", "\ufeffcat\r\n dog\r\n\r\n"),
        ("a.json", json.dumps(["cat", "dog"])),
        ("b.json", json.dumps({"1": "dog", "0": "cat"})),
        ("c.json", json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"]})),
        ("d.json", json.dumps({"dog": 1, "cat": 0})),
    ],
)
def test_files_of_names(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / name) == read_labels(str(tmp_path / name)) == ("cat", "dog")


def test_the_word_imagenet():
    assert read_labels("imagenet")[281] == "tabby"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gap.json", b'{"0": "cat", "2": "dog"}', "number 1 has no name"),
        ("broken.json", b'["cat"', "not JSON"),
        ("number.json", b"7", "neither a list nor an object"),
        ("types.json", b'["cat", 7]', "class 1 has no name, but 7"),
        ("hole.txt", b"cat\n\ndog\n", "class 1 has no name"),
        ("empty.txt", b"", "no names"),
        ("picture.txt", b"\x89PNG\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_bad_files_of_names(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValue, match=told):
        read_labels(tmp_path / name)


def test_a_missing_file_of_names(tmp_path):
    (tmp_path / "names.txt").write_text("cat")
    with pytest.raises(InvalidValue, match=r"nearest: names\.txt"):
        read_labels(tmp_path / "nams.txt")
