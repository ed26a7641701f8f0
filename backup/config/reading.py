"""From the texts of a door to one checked `Config`; an empty text means "not given"."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

from backup.config.declaring import Input
from backup.config.names import (
    READING_COMMANDS,
    SOURCE_COMMANDS,
    VAULT_COMMANDS,
    WORKING_COMMANDS,
    WORKING_FORGES,
    WRITING_COMMANDS,
    Command,
    Provider,
)
from backup.config.syntax import OWNER_PATTERNS, Refusal, SourceSpec, either
from backup.config.table import BY_NAME, INPUTS, Config
from backup.errors import ConfigError, NotYetAvailable


@dataclass(frozen=True, slots=True)
class Given:
    """An input's text, and what its giver calls the input: ``--check``, ``REPO_BACKUP_CHECK``."""

    text: str
    label: str


def taken_by(command: Command) -> tuple[Input, ...]:
    """Tell which inputs a command of the command line takes, in the order of the table."""
    return tuple(one for one in INPUTS if command in one.commands)


def read_command_line(command: Command, given: Mapping[str, Given]) -> Config:
    """Check what was given, by input name, to a command that takes all of it.

    Raises:
        ConfigError: a value is not accepted, two contradict each other, or one is missing.
        NotYetAvailable: all is well formed, but the command or an input does not work yet.
    """
    labels = {
        one.name: one.variable(command) if one.secret else one.option(command)
        for one in taken_by(command)
    } | _labels(given)
    config = _read(given, command=command)
    _check_together(config, labels)
    if command not in WORKING_COMMANDS:
        raise NotYetAvailable(
            f"{command} is not available yet", hint=f"what works is {either(*WORKING_COMMANDS)}"
        )
    _check_available(given)
    _check_complete(config, labels)
    _check_plain_sources(config, labels)
    return config


def read_action(given: Mapping[str, Given]) -> Config:
    """Check the inputs of the container action.

    Raises:
        ConfigError: a value is not accepted, two contradict each other, or one is missing.
        NotYetAvailable: all is well formed, but an input does not work yet.
    """
    labels = {one.name: one.name for one in INPUTS if one.action} | _labels(given)
    config = _read(given)
    _check_together(config, labels)
    if not config.owner:
        raise ConfigError("owner is missing: give the organisation, user, group or workspace")
    _check_owners_of_forge(config)
    reads = config.command in READING_COMMANDS
    has_credentials = config.token or config.app_id or config.oauth_key
    if not reads and config.provider != "git" and not has_credentials:
        consumer = config.provider == "bitbucket"
        others = "oauth-key and oauth-secret" if consumer else "app-id and app-private-key"
        raise ConfigError(f"token is missing: give a token, or {others}")
    if config.destination is None and config.bucket is None:
        raise ConfigError("destination is missing: give bucket, or destination")
    if config.provider not in WORKING_FORGES:
        label = labels.get("provider", "provider")
        raise ConfigError(
            f"{label}: {config.provider!r} is for the command line: give {either(*WORKING_FORGES)}"
        )
    if config.command not in WORKING_COMMANDS:
        raise NotYetAvailable(f"{labels['command']}: {config.command!r} is not available yet")
    _check_available(given)
    if reads:
        _check_destination(config, labels)
        return config
    sources = tuple(SourceSpec(config.provider, owner) for owner in config.owner)
    # An owner is given by name here, and names no folder of the vault.
    config = replace(config, sources=sources, owner=())
    _check_destination(config, labels)
    _check_where_token_goes(config, labels | {"from": labels["server-url"]})
    return config


def _labels(given: Mapping[str, Given]) -> dict[str, str]:
    return {name: one.label for name, one in given.items()}


def _read(given: Mapping[str, Given], *, command: Command | None = None) -> Config:
    values: dict[str, Any] = {}
    for name, one in given.items():
        text = one.text.strip()
        if text:
            values[BY_NAME[name].attribute] = _value(BY_NAME[name], text, label=one.label)
    if command is not None:
        values["command"] = command
    return Config(**values)


def _value(one: Input, text: str, *, label: str) -> object:
    try:
        return one.syntax.parse(text)
    except Refusal as refusal:
        shown = _shown(None if one.secret else refusal.text)
        raise ConfigError(f"{label}: {shown} {refusal.problem}", hint=refusal.hint) from None


_CREDENTIALS = re.compile(
    r"[:/][^\s@]+@|gh[a-z]_\w|github_pat_|gl(?:pat|cbt)-|AT(?:BB|ATT|CTT)|AKIA|PRIVATE KEY"
)


def _shown(text: str | None) -> str:
    # A value in the wrong place may well be a secret.
    if text is None or _CREDENTIALS.search(text):
        return "the value (not shown)"
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def _check_together(config: Config, labels: Mapping[str, str]) -> None:
    if config.destination is not None and config.bucket is not None:
        raise ConfigError(
            f"{labels['bucket']} and {labels['destination']} exclude each other: give one of them"
        )
    if config.token is not None and config.app_id is not None:
        raise ConfigError(
            f"{labels['token']} and {labels['app-id']} exclude each other: give one of them"
        )
    if config.token is not None and config.oauth_key is not None:
        raise ConfigError(
            f"{labels['token']} and {labels['oauth-key']} exclude each other: give one of them"
        )
    for first, second in (
        ("prefix", "bucket"),
        ("app-id", "app-private-key"),
        ("app-private-key", "app-id"),
        ("oauth-key", "oauth-secret"),
        ("oauth-secret", "oauth-key"),
        ("object-lock-mode", "object-lock-days"),
        ("object-lock-days", "object-lock-mode"),
    ):
        if _is_set(config, first) and not _is_set(config, second):
            raise ConfigError(f"{labels[first]} needs {labels[second]} too")
    if config.push is not None and config.everything:
        raise ConfigError(
            f"{labels['push']} and {labels['all']} exclude each other: one repository is pushed"
        )
    if config.force and config.push is None:
        raise ConfigError(f"{labels['force']} needs {labels['push']} too")
    if config.command == "prune" and not any(_value_of(config, name) for name in _WINDOWS):
        raise ConfigError(
            f"prune needs a rule for what to keep: give one of {either(*_WINDOWS)}",
            hint="such as keep-daily 30, keep-weekly 12 and keep-monthly 24",
        )
    if config.exports and "gitlab" not in (config.provider, *_providers(config)):
        raise ConfigError(f"{labels['exports']}: only GitLab exports projects: leave it out")
    if config.kms_key_id is not None and config.encryption == "sse-s3":
        raise ConfigError(
            f"{labels['kms-key-id']} and {labels['encryption']} 'sse-s3' exclude each other: "
            "give one of them"
        )


_WINDOWS = (
    "keep-within",
    "keep-hourly",
    "keep-daily",
    "keep-weekly",
    "keep-monthly",
    "keep-yearly",
)


def _providers(config: Config) -> set[Provider]:
    return {source.provider for source in config.sources}


def _is_set(config: Config, name: str) -> bool:
    return _value_of(config, name) is not None


def _value_of(config: Config, name: str) -> object:
    return getattr(config, BY_NAME[name].attribute)


def _default(name: str) -> object:
    return BY_NAME[name].syntax.parse(BY_NAME[name].default)


def _check_available(given: Mapping[str, Given]) -> None:
    for name, one in given.items():
        wanted = BY_NAME[name]
        if not wanted.available and not _asks_for_nothing(wanted, one.text.strip()):
            raise NotYetAvailable(f"{one.label} is not available yet", hint="leave it out")


def _asks_for_nothing(one: Input, text: str) -> bool:
    if not text:
        return True
    return text in one.off or bool(one.syntax.parse(text) == one.syntax.parse(one.default))


def _check_complete(config: Config, labels: Mapping[str, str]) -> None:
    command = config.command
    if command in SOURCE_COMMANDS and not config.sources:
        what = (
            "github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE, a folder of repositories, git:URL or "
            "git:PATH"
        )
        _refuse_missing("from", command, labels, what=what)
    if command not in VAULT_COMMANDS:
        return
    if config.destination is None and config.bucket is None:
        what = "a folder to back up to" if command in WRITING_COMMANDS else "the folder of a vault"
        what = f"{what}, or s3://BUCKET/PREFIX"
        _refuse_missing("destination", command, labels, what=what)
    _check_destination(config, labels)


def _check_destination(config: Config, labels: Mapping[str, str]) -> None:
    folder, command = config.vault.folder, config.command
    if folder is None:
        return
    if command in READING_COMMANDS and not folder.exists():
        raise ConfigError(
            f"{labels['destination']}: {str(config.vault)!r} does not exist: "
            "give the folder of a vault"
        )
    for name in _OF_BUCKETS:
        if BY_NAME[name] in taken_by(command) and _value_of(config, name) != _default(name):
            raise ConfigError(
                f"{labels[name]} needs a bucket: {labels['destination']} {str(config.vault)!r} is "
                "a folder"
            )


# What only a bucket can have.
_OF_BUCKETS = (
    "region",
    "endpoint-url",
    "addressing-style",
    "storage-class",
    "encryption",
    "kms-key-id",
    "expected-bucket-owner",
    "object-lock-mode",
    "object-lock-days",
)


def _refuse_missing(
    name: str, command: Command, labels: Mapping[str, str], *, what: str
) -> NoReturn:
    raise ConfigError(
        f"{labels[name]} is missing: give {what}",
        hint=f"repo-backup {command} --help shows an example",
    )


def _check_plain_sources(config: Config, labels: Mapping[str, str]) -> None:
    """Refuse sources that the vault could not keep apart, from itself and from each other."""
    if len(config.owner) > 1:
        raise ConfigError(
            f"{labels['owner']}: give one name; all that is named with --from shares it"
        )
    _check_where_token_goes(config, labels)
    places: dict[tuple[Provider, str], SourceSpec] = {}
    for source in config.sources:
        _check_apart(config, source, labels)
        owner = config.owner_of(source)
        if not owner:
            raise ConfigError(
                f"{labels['from']}: {str(source)!r} gives no name for the owner: "
                f"name it with {labels['owner']}"
            )
        other = places.setdefault((source.provider, owner), source)
        if other is not source and source.provider == "folder":
            raise ConfigError(
                f"{labels['from']}: {str(other)!r} and {str(source)!r} are both {owner!r} in the "
                "vault",
                hint=f"back them up in two runs, and name one with {labels['owner']}",
            )


def _check_where_token_goes(config: Config, labels: Mapping[str, str]) -> None:
    """Let a token go to one server alone, and never in the clear."""
    given = ("token", "oauth-secret", "app-private-key")
    secret = next((labels[name] for name in given if _is_set(config, name)), None)
    if secret is None:
        return
    if goes_in_the_clear(config.api_url or ""):
        raise ConfigError(
            f"{labels['api-url']}: {config.api_url!r} would send {secret} in the clear: "
            "give the address with https://"
        )
    if goes_in_the_clear(config.push or ""):
        raise ConfigError(
            f"{labels['push']}: {config.push!r} would send {secret} in the clear: "
            "give the address with https://"
        )
    servers = {}
    sources = [one for one in config.sources if config.app_id is None or one.provider == "github"]
    if config.app_id is not None and not sources and config.sources:
        raise ConfigError(f"{labels['app-id']}: a GitHub App opens nothing here: give github:OWNER")
    for source in sources:
        parts = urlsplit(config.server_of(source))
        if parts.scheme in {"http", "https"}:
            servers[parts.scheme, parts.netloc.lower()] = source
            if goes_in_the_clear(config.server_of(source)):
                raise ConfigError(
                    f"{labels['from']}: {str(source)!r} would send {secret} in the clear: "
                    "give the address with https://"
                )
    if len(servers) > 1:
        first, second = (str(source) for source in list(servers.values())[:2])
        raise ConfigError(
            f"{secret} goes to one server only: {first!r} and {second!r} are at two",
            hint="back them up in two runs",
        )


def goes_in_the_clear(url: str) -> bool:
    """Tell whether others could read on its way what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


def _check_apart(config: Config, source: SourceSpec, labels: Mapping[str, str]) -> None:
    # The walk of a source would find the vault, and a vault may hold nothing but its own objects.
    if source.path is None or config.vault.folder is None:
        return
    vault, place = config.vault.folder.resolve(), source.path.resolve()
    if not (vault.is_relative_to(place) or place.is_relative_to(vault)):
        return
    relation = "is" if vault == place else "lies in" if vault.is_relative_to(place) else "holds"
    raise ConfigError(
        f"{labels['destination']}: {str(config.vault)!r} {relation} "
        f"the source {str(source)!r}: give a folder apart from it"
    )


def _check_owners_of_forge(config: Config) -> None:
    pattern = OWNER_PATTERNS.get(config.provider)
    for name in config.owner:
        if pattern is not None and re.fullmatch(pattern, name, re.ASCII) is None:
            raise ConfigError(f"owner: {_shown(name)} is no owner's name at {config.provider}")
