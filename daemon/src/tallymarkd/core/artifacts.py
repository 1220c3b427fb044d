"""Counting artifacts: ``commit:abc123`` is one more commit of its agent."""

from __future__ import annotations

from typing import NamedTuple

from tallymark.state import AgentProfile

ARTIFACTS_FEW = 8
"""More artifacts than this are counted in one text."""

_SEPARATOR = "\0"


class _Kind(NamedTuple):
    """Which counter a kind feeds; those whose value begins with ``mark`` feed another."""

    counter: str
    mark: str = ""
    marked_counter: str = ""


_KINDS = {  # the frequent ones first
    "commit": _Kind("commits_made"),
    "file": _Kind("files_modified", "created:", "files_created"),
    "pr": _Kind("prs_created", "merged:", "prs_merged"),
    "test": _Kind("tests_written"),
    "issue": _Kind("issues_created", "completed:", "issues_completed"),
    "message": _Kind("messages_sent"),
    "slack": _Kind("messages_sent"),
    "review": _Kind("reviews_completed"),
}


def count_artifacts(artifacts: list[str]) -> dict[str, int]:
    """How much each counter of the profile grows."""
    if len(artifacts) > ARTIFACTS_FEW:
        text = _SEPARATOR + _SEPARATOR.join(artifacts)
        if text.count(_SEPARATOR) == len(artifacts):
            return _count_in_text(text, len(artifacts))
    found: dict[str, int] = {}
    for artifact in artifacts:
        name, colon, value = artifact.partition(":")
        kind = _KINDS.get(name)
        if kind is not None and colon:
            marked = kind.mark and value.startswith(kind.mark)
            counter = kind.marked_counter if marked else kind.counter
            found[counter] = found.get(counter, 0) + 1
    return found


def _count_in_text(text: str, left: int) -> dict[str, int]:
    """The same for ``left`` artifacts in one text, each after a separator: far quicker."""
    found: dict[str, int] = {}
    for name, (counter, mark, marked_counter) in _KINDS.items():
        count = text.count(f"{_SEPARATOR}{name}:")
        left -= count
        if count and mark:
            marked = text.count(f"{_SEPARATOR}{name}:{mark}")
            if marked:
                found[marked_counter] = marked
            count -= marked
        if count:
            found[counter] = found.get(counter, 0) + count
        if not left:
            break
    return found


def add_counters(profile: AgentProfile, counters: dict[str, int]) -> None:
    """Add what ``count_artifacts`` found."""
    for name, count in counters.items():
        setattr(profile, name, getattr(profile, name) + count)
