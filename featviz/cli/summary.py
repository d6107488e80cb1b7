"""The summary of a folder: one line for each photo and target, in a CSV file beside the results."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featviz.errors import FeatvizError

if TYPE_CHECKING:
    from featviz.output.explanations import Explanations

COLUMNS = ("photo", "method", "target", "score", "probability", "layer", "percentile")
BOX = ("top", "left", "bottom", "right", "threshold")


@dataclass
class Summary:
    """What came of each photo, written at the end, whatever failed."""

    place: Path
    overwrite: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """Refuse a place that cannot take the file."""
        from featviz.output.files import check_place

        check_place(self.place, self.overwrite)

    def watched(self, photo: Path, output: Path, work: Callable[[], Explanations]) -> None:
        """Note what the work gives for a photo, or why it failed."""
        try:
            made = work()
        except FeatvizError as error:
            self.rows.append({"photo": photo, "error": str(error)})
            raise
        for each in made.data()["explanations"]:
            row = {name: each.get(name, each["notes"].get(name, "")) for name in COLUMNS[1:]}
            box = dict(zip(BOX, [*(each["box"] or [""] * 4), each["threshold"]], strict=True))
            self.rows.append({"photo": photo, **row, **box, "output": output})

    def write(self) -> None:
        """Write the file, whole or not at all."""
        from featviz.output.files import placed

        with (
            placed(self.place, self.overwrite) as hidden,
            hidden.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [*COLUMNS, *BOX, "output", "error"], restval="")
            writer.writeheader()
            writer.writerows(self.rows)
