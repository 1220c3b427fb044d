from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymarkd.core.layout import Layout, project_directory


def test_where_everything_stands() -> None:
    layout = Layout(Path("/s"))

    assert [
        str(path)
        for path in (
            layout.lock,
            layout.journal,
            layout.projects,
            layout.quarantine,
            layout.index,
            layout.recovery_report,
            layout.recovery_history,
        )
    ] == [
        "/s/lock",
        "/s/journal",
        "/s/projects",
        "/s/quarantine",
        "/s/index.sqlite",
        "/s/recovery.json",
        "/s/recovery-history.json",
    ]
    assert layout.project("spotter").parent == layout.projects


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("spotter", "spotter"),
        ("My Project", "My-Project"),
        ("a/b/../c", "a-b-..-c"),
        ("..", "project"),
        (".hidden", "hidden"),
        ("日本", "project"),
        ("", "project"),
        ("x" * 300, "x" * 48),
    ],
)
def test_a_directory_is_named_for_people(name: str, slug: str) -> None:
    assert re.fullmatch(re.escape(slug) + r"-[0-9a-f]{10}", project_directory(name))


def test_the_name_is_part_of_the_format() -> None:
    assert project_directory("spotter") == "spotter-34838c3eec"


def test_names_that_read_alike_do_not_share_a_directory() -> None:
    names = ["a b", "a-b", "a--b", "a/b", "A b", "a b ", "x" * 60, "x" * 61]

    assert len({project_directory(name) for name in names}) == len(names)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=512))
def test_any_name_makes_one_plain_file_name(name: str) -> None:
    found = project_directory(name)

    assert re.fullmatch(r"[A-Za-z0-9._-]+", found)
    assert not found.startswith((".", "-"))
    assert len(found.encode()) <= 255
