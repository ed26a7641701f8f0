"""What git's words mean."""

import pytest

from backup.git.command import newer_format


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (
            "the answer ended (fatal: unknown repository extension found:; refstorage)",
            "extensions.refstorage",
        ),
        (
            "fatal: unknown repository extensions found:; refstorage; relativeworktrees",
            "extensions.refstorage, extensions.relativeworktrees",
        ),
        (
            "fatal: unknown repository extension found:; foo; fatal: Could not read from remote.",
            "extensions.foo",
        ),
        ("fatal: Expected git repo version <= 1, found 2", "core.repositoryformatversion = 2"),
        (
            "error: invalid value for 'extensions.refstorage': 'tables'; fatal: bad config",
            "extensions.refstorage = tables",
        ),
    ],
)
def test_a_newer_format_is_told_by_what_git_says(words: str, what: str) -> None:
    error = newer_format("/srv/one", words, reader="git version 2.39.5")
    assert error is not None
    assert error.message == (
        f"/srv/one: the repository is in a newer format than git version 2.39.5 reads ({what})"
    )
    assert ("git 2.45" in error.hint) is ("refstorage" in what)


@pytest.mark.parametrize(
    "words", ["", "fatal: bad config line 8 in file ./config", "fatal: not a git repository"]
)
def test_other_words_are_about_something_else(words: str) -> None:
    assert newer_format("/srv/one", words, reader="git") is None
