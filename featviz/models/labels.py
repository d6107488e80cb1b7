"""Class names: where they are read from, and which class a query means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featviz.errors import AmbiguousName, ClassNotFound, InvalidValue, nearest

IMAGENET = "imagenet"
"""The word that `--labels` takes in place of a file for the 1000 classes of ImageNet."""


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names of ImageNet-1k, in the order of their numbers."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def class_index(labels: Sequence[str], query: int | str, count: int) -> int:
    """The number, in [0, count), of the class that `query` means.

    A number, or a text of digits, is the class's number. Otherwise, ignoring case and taking
    `_` and `-` for spaces: the class of that whole name, else the only one with those whole
    words in its name, else the only one whose name contains the text. Raises `ClassNotFound`
    or `AmbiguousName`.
    """
    if isinstance(query, int) or re.fullmatch(r"\s*[-+]?\d+\s*", query):
        return _by_number(int(query), count)
    if not labels:
        raise ClassNotFound(
            query, hint=f"the model has no class names; say 0 to {count - 1} or give --labels"
        )
    wanted = _plain(query)
    names = [_plain(label) for label in labels[:count]]
    for fits in _MATCHES if wanted else ():
        found = [index for index, name in enumerate(names) if fits(wanted, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise AmbiguousName("class", query, [f"{labels[index]} ({index})" for index in found])
    raise ClassNotFound(query, labels, hint="see the model's labels" if not wanted else "")


def _by_number(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ClassNotFound(str(number), hint=f"the model has {count}, so 0 to {count - 1}")
    return number


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", text.casefold()).split())


def _is_synonym(wanted: str, name: str) -> bool:
    return wanted in (part.strip() for part in name.split(","))


def _has_words(wanted: str, name: str) -> bool:
    return f" {wanted} " in f" {name.replace(',', ' ')} "


# Strictest first; the first that fits any class decides.
_MATCHES: tuple[Callable[[str, str], bool], ...] = (
    str.__eq__,
    _is_synonym,
    _has_words,
    lambda wanted, name: wanted in name,
)


def read_labels(labels: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers, from a file, a sequence, or the word `imagenet`.

    A `.json` file holds a list, `{"0": "name", …}`, `{"0": ["n01440764", "name"], …}` or
    `{"name": 0, …}`; any other file one name a line. Raises `InvalidValue`.
    """
    if not isinstance(labels, (str, Path)):
        return _names(list(labels), "labels")
    if str(labels) == IMAGENET:
        return imagenet_labels()
    path = Path(labels)
    text = _read(path)
    if path.suffix.lower() == ".json":
        try:
            return _names(_in_order(json.loads(text), str(labels)), str(labels))
        except json.JSONDecodeError as error:
            raise InvalidValue(f"labels {str(labels)!r}: not JSON ({error})") from error
    return _names([line.strip() for line in text.rstrip().splitlines()], str(labels))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        beside = [entry.name for entry in path.parent.glob("*")]
        raise InvalidValue(f"no labels file {str(path)!r}{nearest(path.name, beside)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"labels {str(path)!r} cannot be read as text: {error}") from error


def _in_order(data: Any, source: str) -> list[Any]:
    if isinstance(data, list):
        return data
    if not isinstance(data, Mapping):
        raise InvalidValue(f"labels {source!r}: neither a list nor an object of class names")
    if all(isinstance(value, int) for value in data.values()):
        data = {str(number): name for name, number in data.items()}
    absent = [number for number in range(len(data)) if str(number) not in data]
    if absent:
        raise InvalidValue(f"labels {source!r}: of {len(data)} classes, number {absent[0]} has no name")
    return [data[str(number)] for number in range(len(data))]


def _names(entries: Sequence[Any], source: str) -> tuple[str, ...]:
    names = [entry[-1] if isinstance(entry, (list, tuple)) and entry else entry for entry in entries]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise InvalidValue(f"labels {source!r}: class {index} has no name, but {name!r}")
    if not names:
        raise InvalidValue(f"labels {source!r}: no names in it")
    return tuple(names)
