"""Which exports of projects prune deletes: those that are too old, and those of forgotten projects.

The newest export of each project stays, however old it is. What documents tell of it may be true no
more: an export can be replaced after it was recorded. So an export goes only where there is a newer
one of the same project that a document names, and that is as it was recorded.

A document that somebody adds makes nothing go by naming an older export, or one that never was.
What the newest entry of a project names stays in any case: a clock may have dated another wrongly.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from backup.commands.continuity import BRING_BACK, Continuity
from backup.commands.deleting import Candidate, Kind
from backup.commands.replaced import is_recorded, list_exports
from backup.commands.surveying import Survey
from backup.model import Destination, StoredObject
from backup.vault.documents import Entry, ForgottenLine
from backup.vault.documents_of_exports import ExportLine
from backup.vault.inventory import stamp
from backup.vault.layout import DocumentName, Layout, export_time, exports_folder, folder_of
from backup.vault.manifest import Identity

_NEVER = datetime.min.replace(tzinfo=UTC)
_ALWAYS = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ExportSweep:
    """What was decided of the exports of an owner.

    Attributes:
        candidates: those that go.
        notes: what a person should know, each with what to do about it.
    """

    candidates: tuple[Candidate, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


def sweep_exports(
    destination: Destination,
    layout: Layout,
    documents: Survey,
    doomed: Collection[DocumentName],
    *,
    entries: Mapping[Identity, Entry],
    forgotten: Iterable[ForgottenLine],
    continuity: Continuity,
    until: datetime | None,
) -> ExportSweep:
    """Choose the exports that go.

    Exports have no id in their keys: where another repository has the path of one that was
    forgotten, they stay.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        documents: what was read.
        doomed: those of them that go.
        entries: the newest of every repository.
        forgotten: the repositories that were forgotten before the grace time.
        continuity: what has to stay though nothing that can be read names it.
        until: what is older is too old; None where age is no reason.

    Raises:
        DestinationError: the exports could not be listed.
    """
    gone = _folders_of_forgotten(entries.values(), forgotten)
    if until is None and not gone:
        return ExportSweep()
    start = len(layout.prefix)
    stored = {key[start:]: found for key, found in list_exports(destination, layout).items()}
    needed = _needed(entries.values())
    newest_whole = _newest_whole(stored, entries, _named(documents, doomed))
    candidates: list[Candidate] = []
    spared = unproved = 0
    for relative, found in stored.items():
        moment, folder = export_time(relative), folder_of(relative)
        # What other programs put there is theirs.
        if moment is None or relative in needed:
            continue
        is_forgotten = moment < gone.get(folder, moment)
        if not is_forgotten and (until is None or moment >= until):
            continue
        if continuity.spares(stamp(moment)):
            spared += 1
        elif not is_forgotten and moment >= newest_whole.get(folder, _ALWAYS):
            unproved += 1
        else:
            candidates.append(Candidate(Kind.EXPORT, found.key, found.size_bytes))
    return ExportSweep(tuple(candidates), tuple(_notes(spared=spared, unproved=unproved)))


def _notes(*, spared: int, unproved: int) -> Iterator[tuple[str, str]]:
    if spared:
        stay = f"{_exports(spared)}: manifests that cannot be read may name them"
        yield stay, BRING_BACK
    if unproved:
        yield (
            f"{_exports(unproved)}: no newer one of the same project is as it was recorded",
            "a run with --exports compares them; docs/how-to/repair-a-vault.md tells how to go on",
        )


def _exports(number: int) -> str:
    return "1 old export stays" if number == 1 else f"{number} old exports stay"


def _folders_of_forgotten(
    entries: Iterable[Entry], forgotten: Iterable[ForgottenLine]
) -> dict[str, datetime]:
    """Return the folders of projects that were forgotten, and when they were."""
    paths = {path for entry in entries for path in (entry.path, *entry.aliases)}
    return {
        exports_folder(path): line.at
        for line in forgotten
        for path in (line.path, *line.aliases)
        if path not in paths
    }


def _named(
    documents: Survey, doomed: Collection[DocumentName]
) -> dict[Identity, dict[ExportLine, None]]:
    """Return the exports that the documents which stay name, of each project."""
    inventory = documents.inventory
    found: dict[Identity, dict[ExportLine, None]] = {}
    for name, row in documents.rows.items():
        if name in doomed:
            continue
        for repository, number in row.named_exports():
            if (line := inventory.exports[number]) is not None:
                found.setdefault(inventory.identities[repository], {})[line] = None
    return found


def _needed(entries: Iterable[Entry]) -> set[str]:
    """Return the exports that the newest entries name, also those that are still to come."""
    lines = [line for entry in entries for line in (entry.export, entry.pending_export)]
    return {line.key for line in lines if line is not None}


def _newest_whole(
    stored: Mapping[str, StoredObject],
    entries: Mapping[Identity, Entry],
    named: Mapping[Identity, Collection[ExportLine]],
) -> dict[str, datetime]:
    """Return when the newest export was asked for that is as it was recorded, by folder.

    Of a folder that several projects have or had it is the one of the project that comes off worst.
    """
    found: dict[str, datetime] = {}
    codes = {identity for identity, entry in entries.items() if entry.kind == "code"}
    for identity in codes | named.keys():
        lines = [*named.get(identity, ())]
        folders = {folder_of(line.key) for line in lines}
        if (entry := entries.get(identity)) is not None:
            lines += [] if entry.export is None else [entry.export]
            folders.update(exports_folder(path) for path in (entry.path, *entry.aliases))
        whole = (export_time(line.key) for line in lines if _is_there(line, stored))
        newest = max((moment for moment in whole if moment is not None), default=_NEVER)
        for folder in folders:
            found[folder] = min(newest, found.get(folder, newest))
    return found


def _is_there(line: ExportLine, stored: Mapping[str, StoredObject]) -> bool:
    found = stored.get(line.key)
    return line.stored_at is not None and found is not None and is_recorded(line, found)
