"""Every input of the table: what is accepted, what is refused and in which words."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

import pytest

from backup.config import (
    COMMANDS,
    INPUTS,
    METADATA_KINDS,
    WORKING_COMMANDS,
    ActionCommand,
    Command,
    Config,
    DestinationSpec,
    Given,
    Input,
    Shard,
    SourceSpec,
    Span,
    read_action,
    read_command_line,
    taken_by,
)
from backup.errors import ConfigError, NotYetAvailable
from backup.secret import Secret

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
SENTINEL = "sentinel-3f1c"


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts of one input: accepted ones with their values, refused ones."""

    accepted: Mapping[str, object]
    refused: tuple[str, ...]


def _boolean() -> Examples:
    return Examples(
        {text: text.lower() == "true" for text in ("true", "True", "TRUE", "false", "False")},
        ("yes", "1", "tRUE", "on", "true,false"),
    )


def _whole(low: int, high: int) -> Examples:
    refused = (str(low - 1), str(high + 1), "x", "1.5", "+3", "1_0", "٣", "1e3", "0x1", "3,4")
    return Examples({str(low): low, str(high): high}, refused)


def _globs() -> Examples:
    return Examples(
        {
            "team-*": ("team-*",),
            "a/*, b ,,\n c?[ab]": ("a/*", "b", "c?[ab]"),
            "*,*": ("*",),
            "[[]x": ("[[]x",),
        },
        ("[", "a,[b", "/a", "a/", "a\x07"),
    )


def _url(*schemes: str) -> Examples:
    return Examples(
        {
            f"{scheme}://host.example:8443/a?b=c": f"{scheme}://host.example:8443/a?b=c"
            for scheme in schemes
        },
        (
            "host.example",
            "https://",
            "https:host",
            "ftp://host.example",
            "https://host.example:70000",
            "https://host.example/a b",
            "https://[::1",
            f"https://user:{SENTINEL}@host.example",
            f"https://{SENTINEL}@host.example",
            *(() if "http" in schemes else ("http://host.example",)),
        ),
    )


# One entry for each input; test_every_input_has_examples holds that. A source or destination
# that must lie on this machine has tests of its own below.
EXAMPLES: Mapping[str, Examples] = {
    "from": Examples(
        {"/": (SourceSpec("folder", "/", Path("/")),)},
        (
            "./nowhere",
            "/etc/passwd",
            "foo:bar",
            "C:\\repositories",
            "https://host.example/a.git",
            "github:",
            "github:a/b",
            "github:-a",
            "gitlab:a//b",
            "bitbucket:a b",
            "git:",
            "git:./nowhere",
            "git:@nowhere",
            "git:@/",
            "git:file://host.example/x.git",
            "git:file:///nowhere.git",
            "git:https://",
            "git:https://host.example",
            "git:https://host.example:x/a.git",
            "git:ftp://host.example/a.git",
            "git:ext::sh -c true",
            "git:-oProxyCommand=x:a",
            "git:ssh://-oProxyCommand=x/a",
            f"git:https://user:{SENTINEL}@host.example/a.git",
            f"git:https://{SENTINEL}@host.example/a.git",
            f"git:ssh://git:{SENTINEL}@host.example/a.git",
            f"git:https://host.example/a.git?private_token={SENTINEL}",
            f"https://user:{SENTINEL}@host.example/a.git",
            "bad\0name",
        ),
    ),
    "owner": Examples(
        {"acme": ("acme",), "a/b\nc, d ": ("a/b", "c", "d"), "my team": ("my team",)},
        ("..", "a//b", "/a", "a\x07b", "a" * 256),
    ),
    "provider": Examples({"gitlab": "gitlab", "git": "git"}, ("gitea", "GitHub", "folder")),
    "command": Examples({"run": "run", "verify": "verify"}, ("backup", "Run", "restore", "list")),
    "token": Examples({"ghp_0123": "ghp_0123"}, (f"{SENTINEL} x", f"{SENTINEL}\nx", "ü")),
    "app-id": Examples(
        {"12345": "12345", "Iv1.8a61f9b3a7aba766": "Iv1.8a61f9b3a7aba766"}, ("x1", "1.5", "-1")
    ),
    "app-private-key": Examples(
        {PEM: PEM, PEM.replace("\n", "\\n"): PEM},
        (SENTINEL, f"-----BEGIN {SENTINEL}-----", f"-----BEGIN PRIVATE KEY-----\n{SENTINEL}"),
    ),
    "oauth-key": Examples({"Nhe3k": "Nhe3k"}, ("a b", "ü")),
    "oauth-secret": Examples({"x1y2": "x1y2"}, (f"{SENTINEL} b",)),
    "username": Examples({"jane": "jane", "jane@example": "jane@example"}, ("a:b", "a b")),
    "ssh-key-file": Examples({"~/.ssh/id": "~/.ssh/id"}, ("a/", "a\x07")),
    "ssh-known-hosts-file": Examples({"known": "known"}, ("a/",)),
    "server-url": _url("https", "http"),
    "api-url": _url("https", "http"),
    "include": _globs(),
    "exclude": _globs(),
    "visibility": Examples({"all": "all", "internal": "internal"}, ("secret", "Public")),
    "archived": _boolean(),
    "forks": _boolean(),
    "pull-refs": _boolean(),
    "wikis": _boolean(),
    "gists": _boolean(),
    "snippets": _boolean(),
    "shared": _boolean(),
    "lfs": _boolean(),
    "metadata": Examples(
        {
            "all": METADATA_KINDS,
            "none": (),
            "pulls, issues": ("issues", "pulls"),
            "labels\nlabels": ("labels",),
        },
        ("issue", "none,issues", "issues,all", "ISSUES"),
    ),
    "exports": _boolean(),
    "destination": Examples(
        {
            "s3://bucket/a/b": DestinationSpec("s3://bucket/a/b", bucket="bucket", prefix="a/b"),
            "s3://bucket": DestinationSpec("s3://bucket", bucket="bucket"),
            "s3://bucket/a/": DestinationSpec("s3://bucket/a/", bucket="bucket", prefix="a"),
            "/nowhere/yet": DestinationSpec("/nowhere/yet", folder=Path("/nowhere/yet")),
        },
        (
            "/etc/passwd",
            "/etc/passwd/vault",
            "s3://",
            "s3://b",
            "s3://Bucket/a",
            "s3://bucket//a//b",
            "s3://bucket/../a",
            "s3://bucket/a?b",
            f"s3://key:{SENTINEL}@bucket/a",
            "gs://bucket/a",
            "github:acme",
            "C:\\vault",
        ),
    ),
    "bucket": Examples(
        {"abc": "abc", "my.bucket-1": "my.bucket-1"},
        ("ab", "a" * 64, "Bucket", "a_b", "-ab", "a..b", "192.168.0.1", "xn--abc", "a-s3alias"),
    ),
    "prefix": Examples(
        {"backups/git": "backups/git", "/a/b/": "a/b"}, ("a//b", "..", "a/./b", "a b", "a\\b")
    ),
    "region": Examples(
        {"eu-central-1": "eu-central-1", "auto": "auto", "fsn1": "fsn1"},
        ("EU", "eu_central_1", "eu-", "a.b"),
    ),
    "endpoint-url": _url("https", "http"),
    "addressing-style": Examples(
        {"auto": "auto", "path": "path", "virtual": "virtual"}, ("vhost", "Virtual", "host")
    ),
    "storage-class": Examples(
        {"STANDARD": "STANDARD", "GLACIER_IR": "GLACIER_IR"}, ("standard", "COLD")
    ),
    "encryption": Examples(
        {"bucket": "bucket", "sse-s3": "sse-s3", "sse-kms": "sse-kms"},
        ("AES256", "aws:kms", "none"),
    ),
    "kms-key-id": Examples(
        {
            "1234abcd-12ab-34cd-56ef-1234567890ab": "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/backup": "alias/backup",
            "arn:aws:kms:eu-west-1:123456789012:key/1": "arn:aws:kms:eu-west-1:123456789012:key/1",
        },
        ("my key", "backup", "arn:aws:s3:::bucket"),
    ),
    "expected-bucket-owner": Examples(
        {"123456789012": "123456789012"}, ("12345", "acme", "1234567890123")
    ),
    "object-lock-mode": Examples({"compliance": "compliance"}, ("GOVERNANCE", "legal")),
    "object-lock-days": _whole(1, 36_500),
    "role-to-assume": Examples(
        {"arn:aws:iam::123456789012:role/x/backup": "arn:aws:iam::123456789012:role/x/backup"},
        ("backup", "arn:aws:iam::123456789012:user/backup", "arn:aws:iam::12:role/backup"),
    ),
    "concurrency": _whole(1, 64),
    "check": Examples({"pack": "pack", "trailer": "trailer"}, ("none", "connected", "Pack")),
    "full-after-days": _whole(1, 36_500),
    "max-chain-length": _whole(1, 1000),
    "deadline-minutes": Examples(
        {"90": 90.0, "0.5": 0.5, "10080": 10080.0},
        ("0", "0.0", "-1", "10080.1", "inf", "nan", "1h", "1e2", ".5"),
    ),
    "shard": Examples({"1/1": Shard(1, 1), "3/8": Shard(3, 8)}, ("0/8", "9/8", "3", "3/0", "a/b")),
    "snapshot-id": Examples(
        {"20261101T031500Z-4f9c": "20261101T031500Z-4f9c"},
        (
            "20261101T031500Z",
            "20261101T031500Z-4f9",
            "20261101T031500Z-4F9C",
            "20261301T031500Z-4f9c",
            "20260230T031500Z-4f9c",
            "20261101T251500Z-4f9c",
            "٢0261101T031500Z-4f9c",
            "latest",
        ),
    ),
    "max-drop-percent": _whole(0, 100),
    "accept-drop": _boolean(),
    "max-age-hours": _whole(1, 87_600),
    "dry-run": _boolean(),
    "export-limit": _whole(1, 1000),
    "export-unchanged": _boolean(),
    "export-timeout-minutes": _whole(1, 1440),
    "sample-percent": _whole(1, 100),
    "sample-bytes": _whole(1, 10**15),
    "depth": Examples({"packs": "packs"}, ("deep", "Objects")),
    "at": Examples(
        {
            text: text
            for text in (
                "2026-11-01",
                "2026-11-01T03:15",
                "2026-11-01 03:15:00",
                "2026-11-01T03:15:00Z",
                "2026-11-01T03:15:00+02:00",
                "2026-11-01T03:15:00.25Z",
                "20261101T031500Z-4f9c",
                "latest",
            )
        },
        (
            "yesterday",
            "2026-11-31",
            "2026-13-01",
            "01.11.2026",
            "2026-11",
            "20261101",
            "2026-W45-1",
        ),
    ),
    "all": _boolean(),
    "checkout": _boolean(),
    "deleted": _boolean(),
    "rewritten": _boolean(),
    "push": Examples(
        {
            "ssh://git@host.example/a.git": "ssh://git@host.example/a.git",
            "git@host.example:a/b.git": "git@host.example:a/b.git",
        },
        ("nowhere", f"https://{SENTINEL}@host.example/a.git", "https://host.example"),
    ),
    "force": _boolean(),
    "push-batch-mib": Examples({"500": 500}, ("0", "1.5", "1000001")),
    "keep-within": Examples(
        {
            "30d": Span(30, "days"),
            "12w": Span(12, "weeks"),
            "6m": Span(6, "months"),
            "1y": Span(1, "years"),
        },
        ("0d", "30", "d", "1h", "1.5d", "-1d", "30 d", "1y6m"),
    ),
    "keep-hourly": _whole(0, 10_000),
    "keep-daily": _whole(0, 10_000),
    "keep-weekly": _whole(0, 10_000),
    "keep-monthly": _whole(0, 10_000),
    "keep-yearly": _whole(0, 10_000),
    "keep-deleted-days": _whole(0, 36_500),
    "keep-exports-days": _whole(1, 36_500),
    "accept-missing-index": _boolean(),
    "grace-days": _whole(1, 365),
    "heartbeat-url": _url("https"),
    "sns-topic-arn": Examples(
        {"arn:aws:sns:eu-west-1:123456789012:alerts": "arn:aws:sns:eu-west-1:123456789012:alerts"},
        ("alerts", "arn:aws:sqs:eu-west-1:123456789012:alerts"),
    ),
    "hide-private-names": Examples({"auto": "auto", "true": "true"}, ("yes", "True")),
    "json": _boolean(),
    "html": Examples({"out/report.html": "out/report.html"}, ("out/", "a\x07")),
}

ACCEPTED = [(name, text) for name, one in EXAMPLES.items() for text in one.accepted]
REFUSED = [(name, text) for name, one in EXAMPLES.items() for text in one.refused]
BY_NAME = {one.name: one for one in INPUTS}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that has ./repositories with a.git, and ./vault."""
    (tmp_path / "repositories" / "a.git").mkdir(parents=True)
    (tmp_path / "vault").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(command: Command = "run", /, **texts: str) -> dict[str, Given]:
    """Give texts as the command line does; underscores stand for dashes."""
    names = {name.strip("_").replace("_", "-"): text for name, text in texts.items()}
    return {name: Given(text, BY_NAME[name].option(command)) for name, text in names.items()}


def read(command: Command = "run", /, **texts: str) -> Config:
    return read_command_line(command, given(command, **texts))


def run_config(**texts: str) -> Config:
    return read(**{"from_": "repositories", "destination": "vault", **texts})


# --- The table -----------------------------------------------------------------------------------


def test_every_input_has_examples() -> None:
    assert list(EXAMPLES) == [one.name for one in INPUTS]


def test_names_are_kebab_case_and_unique() -> None:
    names = [one.name for one in INPUTS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and "_" not in name for name in names)


def test_options_and_variables_of_a_command_are_unique() -> None:
    for command in COMMANDS:
        options = [one.option(command) for one in taken_by(command)]
        assert len(set(options)) == len(options), command


def test_every_field_is_an_input() -> None:
    assert [one.attribute for one in INPUTS] == [one.name for one in fields(Config)]


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.name)
def test_an_input_can_be_given_and_is_explained(one: Input) -> None:
    assert one.commands or one.action
    assert one.help.endswith(".")
    assert one.syntax.accepts
    assert not one.default or one.syntax.parse(one.default) == getattr(Config(), one.attribute)


@pytest.mark.usefixtures("places")
def test_an_input_that_does_not_work_is_off_by_default() -> None:
    assert run_config() == read_command_line(
        "run",
        given(
            from_="repositories",
            destination="vault",
            **{
                one.name: one.default
                for one in taken_by("run")
                if not one.available and one.default
            },
        ),
    )


def test_the_defaults_are_those_of_the_interface() -> None:
    config = Config()
    assert (config.archived, config.forks, config.wikis) == (True, True, True)
    assert (config.pull_refs, config.lfs, config.exports, config.metadata) == (
        None,
        True,
        False,
        (),
    )
    assert (config.full_after_days, config.max_chain_length, config.check) == (90, 50, "pack")
    assert (config.max_drop_percent, config.grace_days, config.provider) == (20, 7, "github")


def test_secrets_are_those_that_must_not_be_typed() -> None:
    assert [one.name for one in INPUTS if one.secret] == [
        "token",
        "app-private-key",
        "oauth-secret",
        "heartbeat-url",
    ]


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), ACCEPTED)
def test_an_accepted_text_becomes_its_value(name: str, text: str) -> None:
    value = BY_NAME[name].syntax.parse(text)
    assert (value.reveal() if isinstance(value, Secret) else value) == EXAMPLES[name].accepted[text]


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_refused_text_is_named_in_one_line_with_what_is_accepted(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _give_only(name, text)
    message = caught.value.message
    assert message.startswith(("--", f"{name}:"))
    assert message.splitlines() == [message]
    assert "give " in message
    assert not message.endswith(".")
    assert SENTINEL not in f"{message} {caught.value.hint}"


def _give_only(name: str, text: str) -> None:
    one = BY_NAME[name]
    if one.commands:
        read_command_line(one.commands[0], {name: Given(text, one.option(one.commands[0]))})
    else:
        read_action({name: Given(text, name)})


def test_the_message_has_option_value_and_range() -> None:
    with pytest.raises(ConfigError) as caught:
        read(max_chain_length="0")
    assert caught.value.message == (
        "--max-chain-length: '0' is not accepted: give a whole number from 1 to 1000"
    )


def test_the_message_names_the_variable_that_a_value_came_from() -> None:
    variable = BY_NAME["max-chain-length"].variable("run")
    with pytest.raises(ConfigError, match=r"^REPO_BACKUP_MAX_CHAIN_LENGTH: 'x' is not"):
        read_command_line("run", {"max-chain-length": Given("x", variable)})


@pytest.mark.usefixtures("places")
def test_of_a_list_the_wrong_item_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--include: '\[' is not accepted"):
        run_config(include="a,[,b")


def test_a_long_value_is_cut_and_a_control_character_escaped() -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(concurrency="\x1b[2J" + "9" * 500)
    assert len(caught.value.message) < 200
    assert "\x1b" not in caught.value.message


def test_a_token_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(concurrency="ghp_" + SENTINEL)
    assert SENTINEL not in caught.value.message


@pytest.mark.usefixtures("places")
def test_blanks_around_a_value_do_not_count_and_an_empty_one_is_unset() -> None:
    config = run_config(concurrency=" 8\n", check="", max_chain_length="  ")
    assert (config.concurrency, config.check, config.max_chain_length) == (8, "pack", 50)


# --- Secrets -------------------------------------------------------------------------------------


def test_a_secret_hides_itself() -> None:
    secret = Secret(SENTINEL)
    config = Config(token=secret)
    printed = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        "%s %r" % (secret, secret),  # noqa: UP031 - one of the ways it must not get out
        repr(config),
        repr(asdict(config)),
        repr(copy.deepcopy(secret)),
        json.dumps({"token": secret}, default=str),
    ]
    assert not [text for text in printed if SENTINEL in text]
    assert secret.reveal() == SENTINEL


def test_a_wrong_secret_is_refused_without_its_value() -> None:
    with pytest.raises(ConfigError) as caught:
        read_command_line("run", {"token": Given(f"{SENTINEL} x", "REPO_BACKUP_TOKEN")})
    assert caught.value.message.startswith("REPO_BACKUP_TOKEN: the value (not shown) is not")
    assert SENTINEL not in caught.value.message


# --- Sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "provider", "path", "owner"),
    [
        ("repositories", "folder", "repositories", "repositories"),
        ("./repositories/", "folder", "repositories", "repositories"),
        ("vault/../repositories", "folder", "repositories", "repositories"),
        ("git:repositories/a.git", "git", "repositories/a.git", "repositories"),
        ("git:file://{here}/repositories/a.git", "git", "repositories/a.git", "repositories"),
        ("git:file://localhost{here}/repositories/a%2Egit", "git", "repositories/a.git", None),
    ],
)
def test_a_source_on_this_machine(
    places: Path, *, text: str, provider: str, path: str, owner: str | None
) -> None:
    config = run_config(from_=text.format(here=places))
    (source,) = config.sources
    assert (source.provider, source.path) == (provider, places / path)
    assert config.owner_of(source) == (owner or "repositories")


def test_a_folder_with_a_colon_or_a_comma_in_its_name(places: Path) -> None:
    (places / "odd:a,b").mkdir()
    config = run_config(from_="./odd:a,b\nrepositories")
    assert [str(source) for source in config.sources] == ["./odd:a,b", "repositories"]


def test_a_link_keeps_the_name_it_is_given_by(places: Path) -> None:
    (places / "link").symlink_to("repositories")
    config = run_config(from_="link")
    assert config.owner_of(config.sources[0]) == "link"


def test_a_home_folder_is_found(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(places))
    assert run_config(from_="~/repositories").sources[0].path == places / "repositories"


def test_the_owner_is_named_for_all_plain_sources(places: Path) -> None:
    config = run_config(from_="repositories\ngit:repositories/a.git", owner="acme")
    assert [config.owner_of(source) for source in config.sources] == ["acme", "acme"]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"owner": "a,b"}, "--owner: give one name"),
        ({"from_": "repositories\n./repositories"}, "are both 'repositories' in the vault"),
        ({"destination": "repositories"}, "'repositories' is the source 'repositories'"),
        ({"destination": "link"}, "'link' is the source 'repositories'"),
        ({"destination": "repositories/v"}, "'repositories/v' lies in the source"),
        ({"from_": "vault/r"}, "'vault' holds the source 'vault/r'"),
        ({"from_": "git:vault/r"}, "'vault' holds the source 'git:vault/r'"),
        ({"from_": ""}, "--from is missing"),
        ({"destination": ""}, "--to is missing"),
    ],
)
def test_places_that_cannot_be_backed_up(places: Path, texts: dict[str, str], problem: str) -> None:
    (places / "vault" / "r").mkdir()
    (places / "link").symlink_to("repositories")
    with pytest.raises(ConfigError) as caught:
        run_config(**texts)
    assert problem in caught.value.message


def test_a_folder_without_a_name_needs_an_owner(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the root has none, and every vault would lie in it.
    monkeypatch.setattr(SourceSpec, "default_owner", "")
    with pytest.raises(ConfigError, match="gives no name for the owner"):
        run_config()
    assert run_config(owner="acme").owner == ("acme",)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("git:https://host.example/acme/a.git", "acme"),
        ("git:https://host.example/group/sub/a", "sub"),
        ("git:https://host.example/two%20words/a", "two words"),
        ("git:http://localhost:8080/a.git", "localhost"),
        ("git:ssh://git@host.example:2222/acme/a.git", "acme"),
        ("git:git@host.example:acme/a.git", "acme"),
        ("git:host.example:a.git", "host.example"),
        ("git:https://host.example/../a.git", "host.example"),
    ],
)
@pytest.mark.usefixtures("places")
def test_a_url_names_a_repository_and_its_owner(text: str, owner: str) -> None:
    if ".." in text:
        with pytest.raises(ConfigError, match="gives no name for the owner: name it with --owner"):
            run_config(from_=text)
        return
    config = run_config(from_=text)
    (source,) = config.sources
    assert source.url == text.removeprefix("git:")
    assert config.owner_of(source) == owner


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        (("http://git.example/a/b",), "would send --token in the clear"),
        (("https://a.example/a/b", "https://b.example/a/b"), "--token goes to one server only"),
        (("https://a.example/a/b", "https://a.example:8443/a/b"), "goes to one server only"),
    ],
)
@pytest.mark.usefixtures("places")
def test_a_token_goes_to_one_server_and_never_in_the_clear(
    sources: tuple[str, ...], problem: str
) -> None:
    text = "\n".join(f"git:{source}" for source in sources)
    with pytest.raises(ConfigError) as caught:
        run_config(from_=text, token=SENTINEL)
    assert problem in caught.value.message
    assert SENTINEL not in caught.value.message
    assert run_config(from_=text).token is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
@pytest.mark.usefixtures("places")
def test_a_token_may_go_to_this_machine_in_the_clear(host: str) -> None:
    config = run_config(from_=f"git:http://{host}:8080/acme/a.git", token=SENTINEL)
    assert config.token is not None


# --- What works, and what does not yet -----------------------------------------------------------


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WORKING_COMMANDS])
def test_a_command_that_does_not_work_yet(command: Command) -> None:
    with pytest.raises(NotYetAvailable, match=f"^{command} is not available yet$"):
        read(command)


WANTED = [
    (one.name, next(text for text in EXAMPLES[one.name].accepted if text != one.default))
    for one in taken_by("run")
    if not one.available
]
COMPANIONS: Mapping[str, dict[str, str]] = {
    "prefix": {"bucket": "abc", "destination": ""},
    "bucket": {"destination": ""},
    "app-id": {"app_private_key": PEM},
    "app-private-key": {"app_id": "1"},
    "oauth-key": {"oauth_secret": "x"},
    "oauth-secret": {"oauth_key": "x"},
    "object-lock-mode": {"object_lock_days": "1"},
    "object-lock-days": {"object_lock_mode": "governance"},
}


@pytest.mark.parametrize(("name", "text"), WANTED)
@pytest.mark.usefixtures("places")
def test_an_input_that_does_not_work_yet(name: str, text: str) -> None:
    text = "false" if BY_NAME[name].default == "true" else text
    with pytest.raises(NotYetAvailable) as caught:
        run_config(**{name: text}, **COMPANIONS.get(name, {}))
    assert caught.value.message == f"--{name} is not available yet"


@pytest.mark.parametrize(
    "texts",
    [
        {"lfs": "false"},
        {"metadata": "none"},
        {"archived": "true", "forks": "TRUE", "wikis": "True"},
        {"visibility": "all"},
        {"hide_private_names": "auto"},
        {"hide_private_names": "false"},
        {"export_limit": "6"},
    ],
)
@pytest.mark.usefixtures("places")
def test_asking_for_nothing_is_accepted(texts: dict[str, str]) -> None:
    assert run_config(**texts).sources


def test_a_bad_value_comes_before_what_is_not_available() -> None:
    with pytest.raises(ConfigError, match=r"^--depth: 'x' is not accepted"):
        read("verify", depth="x")
    with pytest.raises(ConfigError, match=r"^--shard: '0/2' is not accepted"):
        read(lfs="true", shard="0/2")


@pytest.mark.parametrize(
    ("texts", "prefix"),
    [
        ({"destination": "s3://bucket"}, ""),
        ({"destination": "s3://bucket/a/b/"}, "a/b"),
        ({"destination": "", "bucket": "bucket"}, ""),
        ({"destination": "", "bucket": "bucket", "prefix": "/a/b/"}, "a/b"),
    ],
)
@pytest.mark.usefixtures("places")
def test_a_bucket_is_named_in_either_way(texts: dict[str, str], prefix: str) -> None:
    vault = run_config(**texts).vault
    assert (vault.bucket, vault.prefix, vault.folder) == ("bucket", prefix, None)
    assert str(vault).rstrip("/") == f"s3://bucket/{prefix}".rstrip("/")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("region", "eu-west-1"),
        ("endpoint-url", "http://localhost:9000"),
        ("addressing-style", "virtual"),
        ("storage-class", "STANDARD_IA"),
        ("encryption", "sse-s3"),
        ("kms-key-id", "alias/backup"),
        ("expected-bucket-owner", "123456789012"),
    ],
)
@pytest.mark.usefixtures("places")
def test_what_only_a_bucket_has_is_refused_for_a_folder(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(**{name.replace("-", "_"): text})
    assert caught.value.message == f"--{name} needs a bucket: --to 'vault' is a folder"
    assert run_config(destination="s3://bucket", **{name.replace("-", "_"): text}).sources


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"destination": "s3://bucket/a", "bucket": "abc"}, "--bucket and --to exclude each other"),
        ({"token": "x", "app_id": "1"}, "--token and --app-id exclude each other"),
        ({"prefix": "a"}, "--prefix needs --bucket too"),
        ({"app_id": "1"}, "--app-id needs REPO_BACKUP_APP_PRIVATE_KEY too"),
        ({"app_private_key": PEM}, "--app-private-key needs --app-id too"),
        (
            {"kms_key_id": "alias/a", "encryption": "sse-s3"},
            "--kms-key-id and --encryption 'sse-s3' exclude each other",
        ),
        ({"oauth_key": "x"}, "--oauth-key needs REPO_BACKUP_OAUTH_SECRET too"),
        ({"oauth_secret": "x"}, "--oauth-secret needs --oauth-key too"),
        ({"object_lock_days": "1"}, "--object-lock-days needs --object-lock-mode too"),
        ({"object_lock_mode": "governance"}, "--object-lock-mode needs --object-lock-days too"),
    ],
)
def test_inputs_that_contradict_each_other(texts: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**texts)
    assert problem in caught.value.message
    assert not isinstance(caught.value, NotYetAvailable)


# --- Readers of a vault, and the action ----------------------------------------------------------


@pytest.mark.parametrize("command", ["list", "restore"])
def test_readers_name_the_vault_with_from(places: Path, command: Command) -> None:
    assert read(command, destination="vault").vault.folder == places / "vault"
    with pytest.raises(ConfigError, match=r"^--from is missing: give the folder of a vault, or "):
        read(command)
    with pytest.raises(ConfigError, match=r"^--from: 'nowhere' does not exist"):
        read(command, destination="nowhere")


def test_the_command_is_part_of_the_configuration(places: Path) -> None:
    assert run_config().command == "run"
    assert read("list", destination=str(places / "vault")).command == "list"
    assert set(get_args(ActionCommand)) <= set(COMMANDS)


def action(**texts: str) -> Config:
    """Give a whole set of inputs to the action, with changes."""
    whole = {"owner": "acme", "token": "x", "destination": "./vault", **texts}
    return read_action({name: Given(text, name) for name, text in whole.items()})


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"owner": ""}, "owner is missing"),
        ({"owner": "a/b"}, "owner: 'a/b' is no owner's name at github"),
        ({"owner": "a b", "provider": "bitbucket"}, "owner: 'a b' is no owner's name at bitbucket"),
        ({"provider": "gitea"}, "provider: 'gitea' is not accepted: give github, gitlab,"),
        ({"token": ""}, "token is missing"),
        ({"destination": ""}, "destination is missing"),
        ({"bucket": "abc"}, "bucket and destination exclude each other"),
        ({"visibility": "none"}, "visibility: 'none' is not accepted"),
        ({"provider": "git"}, "provider: 'git' is for the command line: give github, gitlab or"),
        ({"command": "prune"}, "prune needs a rule for what to keep: give one of keep-within"),
        ({"command": "plan"}, "command: 'plan' is not available yet"),
        ({"region": "eu-west-1"}, "region needs a bucket"),
        ({"server-url": "http://git.example"}, "server-url: 'github:acme' would send token in the"),
        (
            {"api-url": "http://api.example"},
            "api-url: 'http://api.example' would send token in the",
        ),
    ],
)
def test_inputs_that_the_action_refuses(texts: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        action(**texts)
    assert caught.value.message.startswith(problem)


def test_owners_that_are_given_to_the_action_are_its_sources() -> None:
    config = action(owner="acme, other")
    assert [str(source) for source in config.sources] == ["github:acme", "github:other"]
    assert [config.owner_of(source) for source in config.sources] == ["acme", "other"]


@pytest.mark.parametrize(
    "token", ["ghp_0123456789", "github_pat_01", "glpat-0A", "glcbt-64_01", "ATATT3x", "ATCTT3x"]
)
@pytest.mark.usefixtures("places")
def test_a_token_in_the_wrong_place_is_not_repeated(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(region=token)
    assert "the value (not shown)" in caught.value.message
    assert token not in caught.value.message + caught.value.hint
