"""Secrets hide themselves, and are taken out of whatever else is printed."""

import base64
import html
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import BackupError, SourceError
from backup.secret import MASK, Secret, forms, left_of, mask

TOKEN = "ghq_Sen+tinel/3f1c?&="


def _encoded(user: str) -> str:
    return base64.b64encode(f"{user}:{TOKEN}".encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        quote(TOKEN, safe=""),
        quote_plus(TOKEN),
        base64.b64encode(TOKEN.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("="),
    ],
)
def test_a_secret_is_masked_in_every_form(text: str) -> None:
    Secret(TOKEN)
    masked = mask(f"before {text} after")
    assert MASK in masked
    assert text not in masked


@pytest.mark.parametrize("user", ["", "x", "ab", "x-access-token", "oauth2"])
def test_a_secret_is_masked_within_what_was_encoded_with_a_user_name(user: str) -> None:
    Secret(TOKEN)
    masked = mask(_encoded(user))
    assert MASK in masked
    # What is left gives less than a block of it away.
    assert len(masked) - len(MASK) <= len(_encoded(user)) - len(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        quote(TOKEN, safe="/"),
        quote(TOKEN, safe="").replace("%2B", "%2b").replace("%2F", "%2f").replace("%3F", "%3f"),
        "".join(f"%{ord(c):02x}" for c in TOKEN),
        quote(quote(quote(TOKEN, safe=""), safe=""), safe=""),
        TOKEN.replace("/", r"\/"),
        "".join(rf"\u{ord(c):04X}" for c in TOKEN),
        "".join(rf"\x{ord(c):02x}" for c in TOKEN),
        html.escape(TOKEN),
        "".join(f"&#{ord(c)};" for c in TOKEN),
        "".join(f"&#x{ord(c):X};" for c in TOKEN),
        html.escape(quote(TOKEN, safe="")).replace("%", "&#37;"),
        base64.b64encode(f"ab:{TOKEN}".encode()).decode().replace("/", r"\/"),
        *(
            f"{TOKEN[:9]}{between}{TOKEN[9:]}"
            for between in (
                "\n",
                " ",
                "\r\n\t",
                r"\n",
                "%0A",
                "\0",
                "\u200b",
                "\ufeff",
                "\xad",
                r"\u200B",
            )
        ),
    ],
)
def test_a_secret_is_masked_however_it_is_written(text: str) -> None:
    Secret(TOKEN)
    assert mask(f"<{text}>") in {f"<{MASK}>", f"<YWI6{MASK}>", f"<YWI{MASK}>"}


def test_two_secrets_are_two_masks_and_the_rest_stays_as_it_is() -> None:
    Secret(TOKEN)
    around = "100%25 of a \\/ b &amp; \u200b c"
    assert mask(f"{around}{TOKEN} {TOKEN}{around}") == f"{around}{MASK} {MASK}{around}"


def test_what_is_left_of_a_cut_has_no_part_of_a_secret() -> None:
    Secret(TOKEN)
    for written in (TOKEN, quote(TOKEN, safe=""), "".join(f"&#{ord(c)};" for c in TOKEN)):
        for at in range(1, len(written)):
            beyond = "many words before it " * 1000
            left = left_of(beyond + " " * 500 + written[:at], at_end=True)
            assert beyond.startswith(left)
            assert left
            left = left_of(written[at:] + "\n" * 500 + beyond, at_start=True)
            assert beyond.endswith(left)
            assert left


def test_each_line_of_a_key_is_masked() -> None:
    Secret("-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\nq83vEjRWeJA\n-----END KEY-----")
    assert mask("the line q83vEjRWeJA of it") == f"the line {MASK} of it"


def test_what_is_no_secret_passes_as_it_is() -> None:
    Secret(TOKEN)
    Secret("short")
    assert mask("a short word of the server") == "a short word of the server"


def test_an_error_never_says_a_secret() -> None:
    Secret(TOKEN)
    error = SourceError(f"the server said: bad token {TOKEN}", hint=f"not {TOKEN}")
    shown = f"{error} {error.message} {error.hint} {error!r}"
    assert TOKEN not in shown
    assert isinstance(error, BackupError)


@given(st.text(min_size=6, max_size=40), st.binary(max_size=10))
def test_any_secret_is_found_in_any_base64_around_it(text: str, before: bytes) -> None:
    encoded = base64.b64encode(before + text.encode()).decode()
    assert any(form in encoded for form in forms(text)) or not text.isprintable()
