"""A progress bar on stderr, where somebody sees it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tallymarkd.cli.place import Place

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress:
    """Shows how far a long piece of work is. Draws nothing when stderr is no terminal."""

    def __init__(self, place: Place, what: str, total: int, *, in_bytes: bool = False) -> None:
        self._bar: RichProgress | None = None
        if sys.stderr.isatty():
            self._bar = _make_bar(place, in_bytes=in_bytes)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """So much more is done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)


def _make_bar(place: Place, *, in_bytes: bool) -> RichProgress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    from tallymarkd.cli.output import make_console

    return RichProgress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=make_console(place.env, err=True),
        transient=True,
    )
