"""What follows from damage that verify found: of each object what is true of it, and no more."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from backup.commands.last_state import with_a_chain
from backup.commands.promised import Promised
from backup.errors import BackupError
from backup.results import DAMAGE_HINT, Damage
from backup.vault.documents import Record
from backup.vault.layout import lfs_oid

_MISSING_FILE = (
    "the next run with files of Git LFS stores a missing file again, where the newest state needs "
    "it and its source has it"
)
_DAMAGED_FILE = (
    "remove a damaged file of Git LFS, with a role that may delete there: the next run with files "
    "of Git LFS stores it again, where the newest state needs it and its source has it"
)
_OLDER = (
    "older states alone need it, and no new full is taken for it: the snapshots named stay as they "
    "are until it is put back; docs/how-to/repair-a-vault.md tells the rest"
)
_WHEN_RUNS_GO_ON = f"when runs go on again, {DAMAGE_HINT}"


def of_repository(
    damaged: Iterable[Damage],
    one: Promised,
    records: Mapping[str, Record],
    *,
    key_of: Callable[[Damage], str],
) -> list[Damage]:
    """Name who needs the damaged objects of a repository, and say what follows.

    Args:
        damaged: what was found.
        one: the repository.
        records: of it, those that could be read.
        key_of: returns the relative key of a damaged object.
    """
    current = {one.newest, with_a_chain(records, one.newest)}
    needed = set(current)
    for key in current & records.keys():
        for line in records[key].chain:
            needed.update((line.key, *line.documents))
    # Of a chain that cannot be read nobody knows what it needs.
    is_known = current <= records.keys()

    def fix(damage: Damage) -> str:
        key = key_of(damage)
        if lfs_oid(key):
            is_missing = damage.problem.startswith("it is missing")
            return _MISSING_FILE if is_missing else _DAMAGED_FILE
        return _OLDER if is_known and key not in needed else DAMAGE_HINT

    return [replace(each, holders=(one.identity,), fix=fix(each)) for each in damaged]


def while_no_run_goes_on(damaged: Iterable[Damage]) -> list[Damage]:
    """Promise nothing of the next run, which ends at a manifest that is damaged."""
    later = {DAMAGE_HINT: _WHEN_RUNS_GO_ON}
    return [replace(each, fix=later.get(each.fix, each.fix)) for each in damaged]


def with_hint(error: BackupError) -> str:
    """Return what an error says, and what it advises, in one sentence."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
