"""What a person sees and can do while a run is under way: progress, time left, Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featviz.watching import Progress

PLAIN_EVERY = 10.0
"""Seconds between two lines where no terminal shows a bar."""

LONG = 180.0
"""Seconds left from which a smaller --size is worth a hint."""


class Watcher:
    """Shows the steps of one run, and ends it after the step in which Ctrl-C was pressed."""

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name, self.quiet = name, quiet
        self.stopped = False
        self.started = self.told = time.monotonic()
        self.hinted = False
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, progress: Progress) -> bool:
        """Show one step; true once Ctrl-C was pressed."""
        if not self.quiet:
            self._show(progress)
        return self.stopped

    def _show(self, progress: Progress) -> None:
        now = time.monotonic()
        left = (now - self.started) * (1 - progress.done) / max(progress.done, 1e-6)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.done, what=_where(progress), left=_clock(left))
        elif now - self.told >= PLAIN_EVERY:
            self.told = now
            say(f"{self.name}: {progress.done:.0%}, {_where(progress)}, {_clock(left)} left")
        if left > LONG and not self.hinted and now - self.started > 5:
            self.hinted = True
            say(f"about {_clock(left)} left; Ctrl-C keeps what there is, --size makes it smaller and faster")

    @contextmanager
    def watching(self) -> Iterator[Watcher]:
        """Within it Ctrl-C asks for a stop; a second one stops at once. A terminal shows a bar."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            if self.quiet or not sys.stderr.isatty():
                yield self
            else:
                with _bar() as self._bar:
                    self._task = self._bar.add_task(self.name, total=1.0, what="", left="")
                    yield self
        finally:
            signal.signal(signal.SIGINT, before)
            self._bar = None

    def _interrupt(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        say("finishing this step; Ctrl-C again stops at once")


def say(line: str) -> None:
    """A line for the person, on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = ("[bold]{task.description}", BarColumn(), TaskProgressColumn())
    texts = (TextColumn("{task.fields[what]}"), TextColumn("[cyan]{task.fields[left]} left"))
    return Bar(*columns, *texts, console=Console(stderr=True), transient=True)


def _where(progress: Progress) -> str:
    """'octave 2/4, step 3/10, score 1.23', and the frame of a film before it."""
    frame = f"frame {progress.frame}/{progress.frames}, " if progress.frames > 1 else ""
    octave = f"octave {progress.octave}/{progress.octaves}, " if progress.octaves > 1 else ""
    score = float(progress.scores.mean())
    step = f"step {progress.step}/{progress.steps}" if progress.step else "trying starts"
    return f"{frame}{octave}{step}, score {score:.4g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
