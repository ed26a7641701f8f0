"""Finding what a person means in a vault: a repository by name, a state by time or snapshot."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import groupby

from backup.commands.lost_index import lost_index
from backup.errors import (
    AccessDenied,
    ConfigError,
    DamagedDocument,
    DestinationError,
    IntegrityError,
    ObjectNotFound,
    UnsupportedFormat,
)
from backup.model import Destination, Key, SourceIdentity
from backup.order import Place, in_order
from backup.vault.clocks import is_misdated
from backup.vault.documents import Drill, Entry, ForgottenLine, Record
from backup.vault.layout import (
    DOCUMENT_FOLDERS,
    DocumentName,
    Layout,
    folder,
    folder_of,
    is_record,
    repository_folder,
    snapshot_of,
)
from backup.vault.manifest import (
    Head,
    State,
    list_documents,
    load,
    load_forgotten,
    load_header,
    load_record,
    load_state,
    needed,
    roots,
    with_documents,
)

# A twentieth of the repositories each night, and some nights that failed.
_MOST_DRILLS = 40
_MOST_NAMED = 10
HOW_TO_SEE_FORGOTTEN = "list --from shows what was forgotten; a run begins again what is listed"
_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?P<second>:\d\d(?P<fraction>\.\d{1,6})?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?)?"
)


@dataclass(frozen=True, slots=True)
class Found:
    """One repository's entry, and where it was found.

    Attributes:
        entry: its entry; `carried_from` names the snapshot that made it.
    """

    layout: Layout
    host: str
    owner: str
    entry: Entry

    @property
    def name(self) -> str:
        """How people name it."""
        return f"{self.owner}/{self.entry.path}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest's name and head."""

    layout: Layout
    name: DocumentName
    header: Head

    @property
    def is_misdated(self) -> bool:
        """Whether a wrong clock has dated it, by the store's."""
        return is_misdated(self.name, self.header, now=None)

    @property
    def ended_at(self) -> datetime:
        """When its run ended: by its own clock, or by the store's if its own was wrong."""
        stored_at = self.name.stored_at
        return stored_at if stored_at and self.is_misdated else self.header.finished_at

    @property
    def place(self) -> Place:
        """What its place in the order depends on; what is misdated decides nothing there."""
        prefix = self.layout.prefix
        merged = () if self.is_misdated else self.header.merged
        return Place(
            (f"{prefix}{self.name.stem}",),
            tuple(f"{prefix}{stem}" for stem in merged),
            self.ended_at,
        )


def parse_moment(text: str) -> datetime:
    """Turn a date or time into the last instant that it names: a date is its whole day, UTC.

    Raises:
        ConfigError: it is neither.
    """
    found = _TIME.fullmatch(text)
    begin = None if found is None else _begin(found)
    if found is None or begin is None:
        raise ConfigError(
            f"--at: {text!r} is not accepted: give a date (2026-11-01), a time "
            "(2026-11-01T02:30:00Z), a snapshot id, or latest"
        )
    if found["fraction"]:
        digits = len(found["fraction"]) - 1
        return begin + timedelta(microseconds=10 ** (6 - digits) - 1)
    if found["second"]:
        return begin + timedelta(seconds=1, microseconds=-1)
    if found["minute"]:
        return begin + timedelta(minutes=1, microseconds=-1)
    return begin + timedelta(days=1, microseconds=-1)


def _begin(found: re.Match[str]) -> datetime | None:
    zone = (found["zone"] or "Z").replace("Z", "+00:00")
    minute, second = found["minute"] or "00:00", found["second"] or ":00"
    try:
        return datetime.fromisoformat(f"{found['date']}T{minute}{second}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        # Before the first year, a thirteenth month, a leap day in a common year.
        return None


def require_roots(destination: Destination) -> tuple[Layout, ...]:
    """Find the owners in a vault.

    Raises:
        ConfigError: there is none.
    """
    found = roots(destination)
    if not found:
        uri = destination.uri("")
        above = _vault_above(destination, uri)
        raise ConfigError(
            f"--from: {uri} holds no snapshots",
            hint=f"it lies inside a vault: name {above}"
            if above
            else "name the folder that was given to run --to",
        )
    return found


def _vault_above(destination: Destination, uri: str) -> str:
    """Return the vault that a folder of an owner, or of a host, lies in; empty where it is none."""
    inside = destination.children("", hidden=True)
    above = uri.rstrip("/").rpartition("/")[0]
    if not DOCUMENT_FOLDERS.isdisjoint(inside):
        return above.rpartition("/")[0]
    # Of a host some owners will do; of another folder there may be any number.
    owners = (destination.children(folder(owner)) for owner in inside[:_MOST_NAMED])
    is_host = any(not DOCUMENT_FOLDERS.isdisjoint(found) for found in owners)
    return above if is_host else ""


def roots_of_same_owner(
    destination: Destination, layout: Layout, identity: SourceIdentity
) -> list[tuple[str, Layout]]:
    """Find what is stored of an owner under names that it had before, by the forge's identity.

    What cannot be read is passed over: it is only something to be told.
    """
    found: list[tuple[str, Layout]] = []
    if not identity.owner_id:
        return found
    with suppress(DestinationError):
        for root in roots(destination):
            if root == layout:
                continue
            with suppress(DestinationError, IntegrityError):
                newest = list_documents(destination, root)[-1:]
                for name in newest:
                    source = load_header(destination, root, name).source
                    if (source.host, source.owner_id) == (identity.host, identity.owner_id):
                        found.append((source.owner, root))
    return found


def snapshots(
    destination: Destination,
    layout: Layout,
    *,
    unreadable: list[tuple[DocumentName, IntegrityError]] | None = None,
) -> list[Snapshot]:
    """Read the heads of all manifests of an owner, in their order, the newest last.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        unreadable: takes up what cannot be read, and why, for those who can do without; None has
            it raised.

    Raises:
        ManifestDamaged: it cannot be read.
        UnsupportedFormat: a newer version wrote it.
    """

    def read(
        names: Sequence[DocumentName],
    ) -> tuple[list[Snapshot], list[tuple[DocumentName, IntegrityError]]]:
        found: list[Snapshot] = []
        failed: list[tuple[DocumentName, IntegrityError]] = []
        for name in names:
            if name.checkpoint is not None:
                continue
            try:
                header = load_header(destination, layout, name)
            except (DamagedDocument, UnsupportedFormat) as error:
                if unreadable is None:
                    with needed(destination, layout, name):
                        raise
                failed.append((name, error))
            else:
                found.append(Snapshot(layout, name, header))
        return found, failed

    found, failed = with_documents(destination, layout, read)
    if unreadable is not None:
        unreadable += failed
    return in_order(found, lambda one: one.place)


def state_of_vault(destination: Destination, layout: Layout, *, now: datetime) -> State:
    """Load what a vault knows of an owner, beside whoever prunes."""
    return with_documents(
        destination, layout, lambda names: load_state(destination, layout, names, now=now)
    )


def forgotten_in_vault(
    destination: Destination, layout: Layout
) -> tuple[tuple[ForgottenLine, ...], tuple[tuple[DocumentName, IntegrityError], ...]]:
    """Read what a vault was told to forget, and name the documents of it that cannot be read."""

    def read(
        names: Sequence[DocumentName],
    ) -> tuple[tuple[ForgottenLine, ...], tuple[tuple[DocumentName, IntegrityError], ...]]:
        unreadable: list[tuple[DocumentName, IntegrityError]] = []
        lines = load_forgotten(destination, layout, names, unreadable=unreadable)
        return lines, tuple(unreadable)

    return with_documents(destination, layout, read)


def entries_of(layout: Layout, state: State) -> list[Found]:
    """Return every repository that a vault knows now."""
    if (source := state.source) is None:
        return []
    return [Found(layout, source.host, source.owner, e) for e in state.entries.values()]


def unfinished_note(layout: Layout, state: State) -> str:
    """Say that no run has finished, and what follows; empty where one has.

    Args:
        layout: the owner's root.
        state: what `load_state` made of its documents.
    """
    if state.newest is not None or state.misdated or not state.entries:
        return ""
    missing = sum(entry.record is None and entry.status is None for entry in state.entries.values())
    return (
        f"{layout.prefix.rstrip('/')}: no run has finished yet. This is the checkpoint of one that "
        f"was cut off or is still at work: it had not reached {missing} of {len(state.entries)} "
        "repositories"
    )


def records_back(destination: Destination, found: Found) -> Iterator[Record]:
    """Yield a repository's records, the newest first; see `captures_back`."""
    return (record for _, record in captures_back(destination, found))


def captured_by(destination: Destination, found: Found, snapshot_id: str) -> Found | None:
    """Return a repository as one run captured it; None where no capture of that run is there.

    A capture outlives its run's manifest where later ones build on it, and a run that was cut off
    has no manifest.
    """
    for entry, record in captures_back(destination, found):
        if record.snapshot_id == snapshot_id:
            return replace(found, entry=entry)
    return None


def captures_back(destination: Destination, found: Found) -> Iterator[tuple[Entry, Record]]:
    """Yield a repository's captures, the newest first, over those that were pruned in between.

    Each comes with an entry of that time, which names its record. A record names the one before it.
    Where that is gone, the folders under its present and earlier names are listed for older ones.

    Raises:
        ObjectNotFound: the newest one is not there.
    """
    key: str | None = found.entry.record
    version = found.entry.record_version_id
    record: Record | None = None
    seen: set[str] = set()
    known: dict[str, Mapping[Key, str]] = {}
    while key is not None and key not in seen:
        seen.add(key)
        try:
            record = load_record(destination, found.layout, key, version=version)
        except ObjectNotFound:
            # The newest must be there.
            if record is None:
                raise
            key = _record_before(destination, found, record)
            continue
        yield _entry_of(found.entry, record, key=key, version=version), record
        key = record.previous
        # Where the newest has a version, the others have one too, that nothing names.
        version = None
        if key is not None and found.entry.record_version_id is not None:
            version = _first_version(destination, found.layout.key(key), known)


def _entry_of(entry: Entry, record: Record, *, key: str, version: str | None) -> Entry:
    """Return a repository's entry as of one of its captures."""
    if key == entry.record:
        return entry
    return Entry(
        host_id=entry.host_id,
        path=entry.path,
        kind=entry.kind,
        private=entry.private,
        record=key,
        record_version_id=version,
        captured_at=record.captured_at,
        carried_from=record.snapshot_id,
    )


def _first_version(
    destination: Destination, key: Key, known: dict[str, Mapping[Key, str]]
) -> str | None:
    """Tell which version of an object was written first, if there are several."""
    folder = folder_of(key)
    if folder not in known:
        known[folder] = {}
        with suppress(AccessDenied):
            known[folder] = {
                one.key: one.first for one in destination.versions(folder) if one.count > 1
            }
    return known[folder].get(key)


def _record_before(destination: Destination, found: Found, record: Record) -> str | None:
    """Find the record that was made before another one, whatever that one names."""
    start = len(found.layout.prefix)
    keys = [
        stored.key[start:]
        for path in dict.fromkeys((found.entry.path, *found.entry.aliases))
        for stored in destination.list(
            found.layout.key(repository_folder(path=path, host_id=found.entry.host_id))
        )
        if is_record(stored.key)
    ]
    older = [key for key in keys if snapshot_of(key) < record.snapshot_id]
    return max(older, key=snapshot_of, default=None)


def newest_drills(destination: Destination, layout: Layout) -> Iterator[Drill]:
    """Yield the last drills, the newest first; one that cannot be read is passed over."""
    keys = [stored.key for stored in destination.list(layout.folder("drills"))]
    # Of two within one second the id does not tell which was later.
    for _, same_second in groupby(reversed(keys[-_MOST_DRILLS:]), key=_second_of):
        drills = []
        for key in same_second:
            with suppress(DestinationError, IntegrityError):
                drills.append(load(destination, key, Drill))
        yield from sorted(drills, key=lambda drill: drill.finished_at, reverse=True)


def _second_of(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[0]


def find_repository(candidates: Iterable[Found], text: str) -> Found:
    """Find the one repository that a name, an earlier name or an id means.

    A live one is preferred to one that is gone, and the same letter case to another.

    Raises:
        ConfigError: none is meant, or several are.
    """
    everything = list(candidates)
    matching: list[Found] = []
    for spellings in (_names, _names_with_ending, _earlier_names):
        matching = matching or [found for found in everything if text in spellings(found)]
    folded = text.casefold()
    for spellings in (_names, _names_with_ending, _earlier_names):
        matching = matching or [
            found for found in everything if folded in map(str.casefold, spellings(found))
        ]
    live = [found for found in matching if found.entry.absence is None]
    chosen = live or matching
    if len(chosen) == 1:
        return chosen[0]
    if not everything:
        raise ConfigError(
            f"REPOSITORY: {text!r} is not in this vault, which holds none",
            hint=HOW_TO_SEE_FORGOTTEN,
        )
    if not chosen:
        raise ConfigError(
            f"REPOSITORY: {text!r} is not in this vault",
            hint=f"it holds {_some([found.name for found in everything])}; list --from shows all",
        )
    raise _several(chosen, text)


def _several(chosen: Sequence[Found], text: str) -> ConfigError:
    meant = _some([f"{f.host}/{f.name} (id {f.entry.host_id})" for f in chosen])
    # Repositories of the same name in two folders have the same id.
    are_told = len({f.entry.host_id for f in chosen}) == len(chosen)
    hint = (
        "give the id"
        if are_told
        else f"give one by its whole name, such as {chosen[0].host}/{chosen[0].name}"
    )
    return ConfigError(f"REPOSITORY: {text!r} means several: {meant}", hint=hint)


def find_exactly(candidates: Iterable[Found], text: str) -> Found:
    """Find the one repository that has a name or an id, letter for letter, gone or not.

    Raises:
        ConfigError: none has it, or several have.
    """
    everything = list(candidates)
    chosen = [found for found in everything if is_name_of(found, text)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise _several(chosen, text)
    near = find_repository(everything, text)
    raise ConfigError(
        f"REPOSITORY: {text!r} is not the present name of one: {near.name} is",
        hint="give that name, or the id",
    )


def find_in_vault(destination: Destination, states: Mapping[Layout, State], text: str) -> Found:
    """Find the one repository of a vault that has a name or an id, letter for letter.

    Args:
        destination: where the vault lies.
        states: what is known of each owner.
        text: the name or id.

    Raises:
        ConfigError: none has it, or several have.
        IndexMissing: none has it that can be seen, and an owner has objects and no manifest.
    """
    everything = [found for layout, state in states.items() for found in entries_of(layout, state)]
    if not any(is_name_of(found, text) for found in everything):
        for layout, state in states.items():
            if (lost := lost_index(destination, layout, state)) is not None:
                raise lost.error
    return find_exactly(everything, text)


def is_name_of(found: Found, text: str) -> bool:
    """Tell whether a text is a repository's name or id, letter for letter."""
    return text in _names(found)


def matches(found: Found, pattern: str) -> bool:
    """Tell whether a glob matches a repository's name, with or without owner and host."""
    return any(fnmatchcase(name, pattern) for name in _spellings(found, found.entry.path))


def _names(found: Found) -> set[str]:
    # A wiki has the id of its repository.
    ending = ".wiki" if found.entry.kind == "wiki" else ""
    return _spellings(found, found.entry.path) | {f"{found.entry.host_id}{ending}"}


def _names_with_ending(found: Found) -> set[str]:
    return {f"{name}.git" for name in _spellings(found, found.entry.path)}


def _earlier_names(found: Found) -> set[str]:
    plain = {name for alias in found.entry.aliases for name in _spellings(found, alias)}
    return plain | {f"{name}.git" for name in plain}


def _spellings(found: Found, path: str) -> set[str]:
    return {path, f"{found.owner}/{path}", f"{found.host}/{found.owner}/{path}"}


def _some(names: list[str]) -> str:
    """Name the first ones, and count the others."""
    named = ", ".join(sorted(names)[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
