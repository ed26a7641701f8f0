"""Known damage in a run: what it begins with, and what of it still stands when it ends."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from backup.commands.drills import DrillState, load_drill_state
from backup.commands.known_damage import (
    AcceptedKeys,
    damage_hint,
    damage_words,
    found_by_drill,
    load_accepted,
    marked,
    run_lines,
    standing,
    still_needed,
    ways_to_name,
    with_known_damage,
)
from backup.commands.ledger import Ledger
from backup.errors import DestinationError
from backup.model import Destination
from backup.vault.documents import Drill, Entry, EntryDamage
from backup.vault.layout import Layout, lfs_key, lfs_oid
from backup.vault.manifest import Identity
from backup.vault.originals import OriginalsDestination


class DamageOfRun:
    """The known damage of one owner's repositories. Belongs to the run's main thread.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        ledger: takes up what is found.
        owner: how people name the owner.
        is_stored: whether this run stored a file of Git LFS, or read it whole, by its id.
        clock: tells the time.

    Attributes:
        newest_drill: the verification that finished last; None where there is none.
        notes: what is to be said, once.
    """

    def __init__(
        self,
        destination: Destination,
        layout: Layout,
        ledger: Ledger,
        *,
        owner: str,
        is_stored: Callable[[str], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._destination = OriginalsDestination(destination)
        self._layout = layout
        self._ledger = ledger
        self._owner = owner
        self._is_stored = is_stored
        self._clock = clock
        self._drills = DrillState()
        self._noted: set[str] = set()
        self.newest_drill: Drill | None = None
        self.notes: list[str] = []

    def load(self, entries: Mapping[Identity, Entry], *, now: datetime) -> dict[Identity, Entry]:
        """Return the entries with all damage of their current chains that is known."""
        try:
            drills = load_drill_state(self._destination, self._layout, now=now)
        except DestinationError as error:
            # What is known from the manifest still counts.
            drills = DrillState()
            self._ledger.problems.append(f"what verify found cannot be read: {error.message}")
        self.newest_drill = drills.newest
        self._drills = drills
        found = with_known_damage(self._destination, self._layout, entries, drills)
        self._noted = {
            one.key for entry in found.values() for one in entry.damaged if one.repaired_at is None
        }
        for identity, entry in found.items():
            before = {one.key for one in entries[identity].damaged if one.accepted}
            new = [one for one in entry.damaged if one.accepted and one.key not in before]
            if new:
                self.notes.append(
                    f"{self._name(entry)}: {len(new)} damaged objects are accepted from now on: "
                    "what can still be restored is kept"
                )
        return found

    def standing_beside(self, drill: Drill) -> int:
        """Count the objects that are known to be damaged and that a verification did not name."""
        known = {*self._drills.standing, *self._noted}
        return len(known - {line.key for line in drill.damaged})

    def known_files(self, entries: Iterable[Entry]) -> dict[str, datetime]:
        """Return the files of Git LFS that are known to be damaged, of whichever repository.

        Args:
            entries: those that `load` gave.

        Returns:
            By their ids, when each was found to be.
        """
        lines = [line for entry in entries for line in entry.damaged]
        found = {one.key: one.found_at for one in lines}
        for key, line in self._drills.standing.items():
            found[key] = line.found_at or found.get(key, self._clock())
        for one in lines:
            if one.repaired_at is not None:
                found.pop(one.key, None)
        return {oid: at for key, at in found.items() if (oid := lfs_oid(key))}

    def note_found(self, entry: Entry, found: Iterable[tuple[str, str]]) -> None:
        """Note what a listing found of a repository that was not captured.

        Args:
            entry: what was known when the run began.
            found: keys of objects, each with what is wrong.
        """
        lines = run_lines(found, before=entry.damaged, now=self._clock())
        keys = {one.key for one in lines}
        of_drills = tuple(
            one for one in entry.damaged if one.found_by == "verify" and one.key not in keys
        )
        self._ledger.note_damage(entry, (*of_drills, *lines))

    def report(self, entries: Iterable[Entry]) -> None:
        """Have the run be partial where a current chain needs what is missing or damaged.

        Args:
            entries: what was known when the run began.
        """
        accepted: AcceptedKeys | None = None
        entries = tuple(entries)
        now = {one.identity: self._ledger.entry_now(one) for one in entries}
        now |= {identity: result.entry for identity, result in self._ledger.results.items()}
        names = ways_to_name(now.values(), owner=self._owner)
        for before in entries:
            entry = self._ledger.entry_now(before)
            if not entry.damaged:
                continue
            left = self._left_after_work(entry)
            lines = still_needed(self._destination, self._layout, entry, left)
            if lines and accepted is None:
                accepted = load_accepted(self._destination, self._layout)
            lines = marked(entry.identity, lines, accepted or {})
            self._ledger.note_damage(before, lines)
            still = standing(entry.model_copy(update={"damaged": lines})).open
            if still:
                words = damage_words(self._name(entry), still)
                hint = damage_hint(names[entry.identity], entry, still)
                self._ledger.problems.append(f"{words}; {hint}")

    def _left_after_work(self, entry: Entry) -> list[EntryDamage]:
        """Return what is left of an entry's damage after this run's work on the repository."""
        lines = []
        for noted in entry.damaged:
            one, oid = noted, lfs_oid(noted.key)
            is_stored = bool(oid) and self._is_stored(oid)
            # What a listing found was looked for in another listing by the work on the repository.
            if one.found_by == "run" and (is_stored or self._was_found(entry, oid)):
                known = self._found_by_drill(entry, one.key)
                if known is None:
                    continue
                # A drill found it damaged before it was missing: nobody has read it since.
                one = known
            marks = {"repaired_at": self._clock()} if is_stored else {}
            lines.append(one.model_copy(update=marks))
        return lines

    def _found_by_drill(self, entry: Entry, key: str) -> EntryDamage | None:
        line = self._drills.standing.get(key)
        if line is None or entry.identity not in {holder.identity for holder in line.holders}:
            return None
        return found_by_drill(line)

    def _was_found(self, entry: Entry, oid: str) -> bool:
        if not self._ledger.was_worked_on(entry.identity):
            return False
        if not oid:
            # Of what was emptied only `note_found` tells: it has another record's chain.
            return not entry.empty
        try:
            self._destination.stat(self._layout.key(lfs_key(oid)))
        except DestinationError:
            return False
        return True

    def _name(self, entry: Entry) -> str:
        return f"{self._owner}/{entry.path}"
