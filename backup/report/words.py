"""Sentences that log, summary and alerts have in common."""

from collections.abc import Mapping, Sequence

from backup.results import VerifyReport

# Bundles that only older states need are read at the depth packs.
_AS_FAR_AS: Mapping[str, str] = {
    "objects": ", as far as listings tell",
    "packs": "",
    "restore": " in the newest states",
}
_MOST_NAMED = 10


def verified_words(report: VerifyReport) -> str:
    """Say how much a verification looked at, of how much there is."""
    of = "" if report.checked == report.repositories else f" of {report.repositories}"
    noun = "repository" if report.repositories == 1 else "repositories"
    return f"{report.checked}{of} {noun} verified ({report.depth})"


def soundness_words(report: VerifyReport) -> str:
    """Say that nothing is damaged, as far as that was looked for."""
    is_all = report.standing == 0 and report.checked == report.repositories and not report.newer
    found = "nothing is damaged" if is_all else "nothing is damaged of what was looked at"
    return f"{found}{_AS_FAR_AS[report.depth]}"


def standing_words(report: VerifyReport) -> str:
    """Say what earlier verifications have found and this one has not looked at."""
    one = report.standing == 1
    return (
        f"{report.standing} {'object' if one else 'objects'} that earlier verifications found "
        f"damaged still {'counts' if one else 'count'} as damaged: this one did not look at "
        f"{'it' if one else 'them'}, or not so deep"
    )


def newer_words(report: VerifyReport) -> str:
    """Say which documents a newer version wrote: the first ones, and how many others."""
    named = _first(report.newer)
    return f"{named}: what a newer version wrote was not looked at; verify with that version"


def not_verified_words(report: VerifyReport) -> str:
    """Say what could not be verified on this machine, and why: the first ones."""
    number = len(report.not_verified)
    repositories = "1 repository" if number == 1 else f"{number} repositories"
    return f"{repositories} could not be verified here: {_first(report.not_verified)}"


def not_searched_words(report: VerifyReport) -> str:
    """Say of which repositories nobody knows whether all of their files are stored."""
    number = len(report.not_searched)
    repositories = "1 repository is" if number == 1 else f"{number} repositories are"
    return f"{repositories} not known to be whole: {_first(report.not_searched)}"


def _first(items: Sequence[str]) -> str:
    more = len(items) - _MOST_NAMED
    return "; ".join(items[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def not_readable_words(report: VerifyReport) -> str:
    """Say how much a verification could not read, and what that means."""
    number = len(report.not_readable)
    objects = "1 object is" if number == 1 else f"{number} objects are"
    return (
        f"{objects} archived and not readable now: nothing was proved of what needs them, "
        "and nothing is known to be wrong with it"
    )
