"""Which place a URL names: what is compared is what is asked."""

import pytest
from urllib3.util import parse_url

from backup.urls import Place, joined, place_of, shown
from tests.support.places import FORMS

FORGE = Place("http", "forge.example", 8080)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://forge.example", ("https", "forge.example", 443)),
        ("HTTPS://Forge.Example/a/b.git", ("https", "forge.example", 443)),
        ("http://forge.example:8080/a?b=c#d", ("http", "forge.example", 8080)),
        ("http://[::1]:8080/a", ("http", "::1", 8080)),
        ("https://forge.example:443/", ("https", "forge.example", 443)),
        ("https://forge.example/a%20b/~c/@d", ("https", "forge.example", 443)),
    ],
)
def test_a_sound_url_names_its_place(url: str, place: tuple[str, str, int]) -> None:
    assert place_of(url) == Place(*place)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "forge.example",
        "//forge.example/a",
        "ftp://forge.example/",
        "file:///etc/passwd",
        "http:///a",
        "http://",
        "http://user@forge.example/",
        "http://user:secret@forge.example/",
        "http://@forge.example/",
        "http://forge.example:99999/",
        "http://forge.example:x/",
        "http://forge.example\\@evil.example/",
        "http://forge.example/\r\nHost: evil.example",
        "http://forge.example/a b",
        "http://förge.example/",
        "http://[::1/",
        "http://forge.example/\0",
        "http://forge.example/" + "a" * 9000,
    ],
)
def test_what_nobody_can_be_sure_of_names_none(url: str) -> None:
    assert place_of(url) is None


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_looks_like_another_place_is_never_taken_for_it(form: str) -> None:
    base = "http://forge.example:8080/acme/one.git/info/refs"
    target = joined(base, form.format(forge="forge.example:8080", evil="evil.example"))
    place = place_of(target)
    assert place is None or place == FORGE or place.host != FORGE.host
    if place == FORGE:
        # The parser that connects agrees.
        connected = parse_url(target)
        assert (connected.host, connected.port) == ("forge.example", 8080)


def test_what_is_shown_of_a_url_has_no_secret() -> None:
    assert shown("https://jane:secret@forge.example/a?token=secret#x") == "https://forge.example/a"
    assert shown("http://[::1") == "what is no URL"
    assert joined("http://a/", "http://[::1") == ""
