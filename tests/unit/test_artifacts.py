from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymark.state import AgentProfile
from tallymarkd.core.artifacts import ARTIFACTS_FEW, add_counters, count_artifacts

MANY = ARTIFACTS_FEW + 1


@pytest.mark.parametrize("copies", [1, MANY])
@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        ("commit:abc", "commits_made"),
        ("pr:merged:#1", "prs_merged"),
        ("pr:#1", "prs_created"),
        ("pr:", "prs_created"),
        ("file:created:a", "files_created"),
        ("file:a:created:", "files_modified"),
        ("issue:completed:A", "issues_completed"),
        ("issue:A", "issues_created"),
        ("message:m", "messages_sent"),
        ("slack:m", "messages_sent"),
        ("review:r", "reviews_completed"),
        ("test:t", "tests_written"),
        ("commit", None),
        ("", None),
        ("Commit:abc", None),
        ("my-commit:abc", None),
        ("url:commit:abc", None),
    ],
)
def test_few_and_many_count_alike(artifact: str, expected: str | None, copies: int) -> None:
    assert count_artifacts([artifact] * copies) == ({expected: copies} if expected else {})


def test_a_separator_within_an_artifact_does_not_make_two() -> None:
    assert count_artifacts(["other:x\0commit:a"] * MANY) == {}


words = st.sampled_from("commit pr file issue slack merged created completed : x \0".split(" "))


@given(st.lists(st.lists(words, max_size=4).map("".join), max_size=40))
def test_counting_together_is_counting_each(artifacts: list[str]) -> None:
    expected: dict[str, int] = {}
    for artifact in artifacts:
        for name, count in count_artifacts([artifact]).items():
            expected[name] = expected.get(name, 0) + count

    assert count_artifacts(artifacts) == expected


def test_counters_are_added() -> None:
    profile = AgentProfile(agent_name="a", commits_made=2)
    add_counters(profile, {"commits_made": 3, "prs_merged": 1})

    assert (profile.commits_made, profile.prs_merged, profile.prs_created) == (5, 1, 0)
