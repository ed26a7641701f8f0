"""Sentences that log, summary and alerts have in common."""

from backup.results import VerifyReport


def verified_words(report: VerifyReport) -> str:
    """Say how much a verification looked at, of how much there is."""
    of = "" if report.checked == report.repositories else f" of {report.repositories}"
    noun = "repository" if report.repositories == 1 else "repositories"
    return f"{report.checked}{of} {noun} verified ({report.depth})"


def soundness_words(report: VerifyReport) -> str:
    """Say that nothing is damaged, as far as that was looked for."""
    if report.standing == 0 and report.checked == report.repositories:
        return "nothing is damaged"
    return "nothing is damaged of what was looked at"


def standing_words(report: VerifyReport) -> str:
    """Say what earlier verifications have found and this one has not looked at."""
    one = report.standing == 1
    return (
        f"{report.standing} {'object' if one else 'objects'} that earlier verifications found "
        f"damaged still {'counts' if one else 'count'} as damaged: this one did not look at "
        f"{'it' if one else 'them'}, or not so deep"
    )


def not_readable_words(report: VerifyReport) -> str:
    """Say how much a verification could not read, and what that means."""
    number = len(report.not_readable)
    objects = "1 object is" if number == 1 else f"{number} objects are"
    return (
        f"{objects} archived and not readable now: nothing was proved of what needs them, "
        "and nothing is known to be wrong with it"
    )
