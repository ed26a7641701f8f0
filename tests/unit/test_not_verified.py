"""What a verification could not look at is told wherever its result is, and is no damage."""

from backup.errors import ExitCode
from backup.report.alert import alert_of_verify
from backup.report.document import verify_document
from backup.report.hiding import hide_private_damage
from backup.report.words import not_searched_words, not_verified_words, soundness_words
from backup.results import VerifyReport

REASONS = tuple(f"host/acme/secret-{number}: the folder is full" for number in range(12))


def report(*reasons: str) -> VerifyReport:
    return VerifyReport("packs", 1, 1 + len(reasons), (), ExitCode.PARTIAL, not_verified=reasons)


def test_an_alert_is_no_success_where_something_was_not_verified() -> None:
    alert = alert_of_verify(report(REASONS[0]))
    assert alert.result == "partial"
    assert REASONS[0] in alert.text
    assert alert_of_verify(report()).result == "success"


def test_the_first_are_named_and_all_are_counted() -> None:
    words = not_verified_words(report(*REASONS))
    assert words.startswith("12 repositories could not be verified here: host/acme/secret-0: ")
    assert words.endswith("; and 2 more")
    assert verify_document(report(*REASONS))["not_verified"] == list(REASONS)
    assert "of what was looked at" in soundness_words(report(*REASONS))


def test_private_names_are_left_out() -> None:
    shown = hide_private_damage(report(*REASONS))
    assert len(shown.not_verified) == len(REASONS)
    assert "secret" not in alert_of_verify(shown).text + not_verified_words(shown)


def test_a_state_of_which_nobody_knows_its_files_is_no_success_and_named_for_those_who_may() -> (
    None
):
    reason = "host/acme/secret: 1 pack was not searched for files of Git LFS"
    searched = VerifyReport("packs", 1, 1, (), ExitCode.PARTIAL, not_searched=(reason,))
    alert = alert_of_verify(searched)
    assert (alert.result, reason in alert.text) == ("partial", True)
    assert not_searched_words(searched) == f"1 repository is not known to be whole: {reason}"
    assert verify_document(searched)["not_searched"] == [reason]
    shown = hide_private_damage(searched)
    assert "secret" not in alert_of_verify(shown).text + not_searched_words(shown)
