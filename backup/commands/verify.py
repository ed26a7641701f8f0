"""Proves that a vault can give back what its manifests promise, to one of three depths.

``objects`` compares listings with records, ``packs`` reads every bundle and lets git index it,
``restore`` rebuilds the newest state of every repository; both of these read every file of Git LFS,
too. Nothing is mended here. What is damaged is noted in the vault with what earlier drills found
and what has not passed since: the next run takes a new full where a current chain needs it, and
until then neither run nor status is a success.

An object that lies in an archive cannot be read now. It is counted, and is neither damaged nor
proved.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock

from backup.commands.clocks import disagreement
from backup.commands.continuity import missing_manifests, way_back
from backup.commands.documents_check import damaged_documents, holders_by_folder
from backup.commands.drilling import (
    Look,
    Looked,
    make_drill,
    note_drill,
    of_snapshots,
    time_of_drill,
    together,
)
from backup.commands.drills import DrillState, load_drill_state, with_noted
from backup.commands.finding import require_roots
from backup.commands.fixes import of_repository, while_no_run_goes_on, with_hint
from backup.commands.hidden import hidden_documents, hidden_words
from backup.commands.last_state import with_a_chain
from backup.commands.lost_index import LostIndex, lost_index
from backup.commands.promised import Promised, Promises, read_promises
from backup.commands.rebuilding import prove_bundle, prove_repository, record_of
from backup.commands.sampling import Candidate, choose
from backup.commands.stored_files import (
    problem_of,
    promises_all_files,
    read_index,
    unsearched_packs,
)
from backup.config.names import Depth
from backup.errors import (
    DestinationError,
    ExitCode,
    IntegrityError,
    MachineLimitReached,
    ObjectArchived,
    ObjectNotFound,
    TemporaryFolderError,
)
from backup.git.command import GitFailed, require_git
from backup.git.pointers import Pointer
from backup.git.work import named_but_unusable
from backup.model import Destination, Events
from backup.results import Damage, VerifyReport, packs_were
from backup.stopping import Stop
from backup.vault.documents import (
    BundleLine,
    DrillLine,
    Ids,
    Record,
)
from backup.vault.layout import (
    Layout,
    bundles_beside,
    folder_of,
    lfs_key,
)
from backup.vault.manifest import (
    Identity,
    list_documents,
    load,
)
from backup.vault.originals import OriginalsDestination


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to prove.

    Attributes:
        sample_percent: the percentage of the repositories to look at, those first that were not
            looked at for the longest time: with 5 each of them has had its turn after 20 drills.
        sample_bytes: look at no more than that many bytes of bundles; None for no limit.
        concurrency: how many repositories are looked at at once.
    """

    depth: Depth
    sample_percent: int = 100
    sample_bytes: int | None = None
    concurrency: int = 4


def verify(
    destination: Destination,
    request: VerifyRequest,
    *,
    events: Events,
    stop: Stop,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> VerifyReport:
    """Look at every owner, note the result in the vault, and tell what is damaged.

    Requests for ``objects``: the listings, of versions where the store has them; all manifests,
    checkpoints and drills; of each repository whose turn it is, as a rule one record for each
    chain, and what its packs point to in Git LFS. Memory grows with the number of objects, by some
    hundred bytes each.

    Raises:
        ConfigError: the destination holds no vault.
        DestinationError: it cannot be read.
        Interrupted: a signal came; nothing is noted.
    """
    require_git()
    if (unusable := named_but_unusable()) and request.depth != "objects":
        events.note(unusable)
    damaged: list[Damage] = []
    not_readable: list[str] = []
    newer: list[str] = []
    not_verified: list[str] = []
    not_searched: list[str] = []
    checked = repositories = standing = 0
    originals = OriginalsDestination(destination)
    for layout in require_roots(originals):
        began = time_of_drill(originals, clock())
        drills = load_drill_state(originals, layout, now=began)
        one = _Root(originals, layout, request, drills, now=began, events=events, stop=stop)
        results = one.run()
        checked += sum(result.counts for result in results)
        not_verified += [
            f"{result.name}: {result.not_verified}" for result in results if result.not_verified
        ]
        not_searched += [
            f"{result.name}: {_of_packs(result.unsearched)}"
            for result in results
            if result.unsearched
        ]
        repositories += len(one.there)
        found = [*one.damaged, *(damage for result in results for damage in result.damaged)]
        found = together(found)
        damaged += found if one.runs_go_on else while_no_run_goes_on(found)
        newer += one.newer
        archived = sorted(set().union(*(result.archived for result in results)))
        not_readable += [destination.uri(layout.key(key)) for key in archived]
        drill = make_drill(
            one.drills,
            results,
            [(one.key_of(damage), damage) for damage in found],
            there=one.there,
            known_since=one.known_since,
            repaired=one.repaired,
            knows_all=not one.damaged and not one.newer,
            depth=request.depth,
            began=began,
            ended=time_of_drill(originals, clock()),
        )
        standing += len(drill.standing)
        if problem := note_drill(
            destination, layout, drill, words=disagreement(originals, clock())
        ):
            events.note(f"the result is not noted in the vault: {problem}")
    code = ExitCode.PARTIAL if not_verified or not_searched else ExitCode.DONE
    return VerifyReport(
        request.depth,
        checked,
        repositories,
        tuple(damaged),
        ExitCode.DAMAGED if damaged else code,
        standing=standing,
        not_readable=tuple(not_readable),
        newer=tuple(newer),
        not_verified=tuple(not_verified),
        not_searched=tuple(not_searched),
    )


class _Root:
    """The work on one owner."""

    def __init__(
        self,
        destination: OriginalsDestination,
        layout: Layout,
        request: VerifyRequest,
        drills: DrillState,
        *,
        now: datetime,
        events: Events,
        stop: Stop,
    ) -> None:
        self._destination = destination
        self._layout = layout
        self._request = request
        self.drills = drills
        self._now = now
        self._events = events
        self._stop = stop
        # Half a million of each in a large vault: no more than must be known.
        self._sizes: dict[str, int] = {}
        self._versions: dict[str, str] = {}
        # Files of Git LFS that were looked at, each by its id, and what is wrong with it; None for
        # one that lies in an archive.
        self._files: dict[str, str | None] = {}
        self._lock = Lock()
        self.there: frozenset[Identity] = frozenset()
        self.known_since: dict[str, datetime] = {}
        self.repaired: dict[str, datetime] = {}
        self.damaged: list[Damage] = []
        self.newer: list[str] = []
        self.runs_go_on = True

    def run(self) -> list[Looked]:
        promises = read_promises(self._destination, self._layout, now=self._now, stop=self._stop)
        everything = promises.repositories
        self.damaged += promises.damaged
        self.newer += promises.newer
        self.runs_go_on = promises.state is not None
        self.there = frozenset(one.identity for one in everything)
        self.drills = with_noted(self.drills, ((one.identity, one.damaged) for one in everything))
        for line in (line for one in everything for line in one.damaged):
            if line.found_by == "run":
                known = self.known_since.setdefault(line.key, line.found_at)
                self.known_since[line.key] = min(known, line.found_at)
            elif line.repaired_at is not None:
                known = self.repaired.setdefault(line.key, line.repaired_at)
                self.repaired[line.key] = max(known, line.repaired_at)
        turns = choose(
            [
                Candidate(one.identity, one.name, one.newest, one.unproven, one.chain_bytes)
                for one in everything
            ],
            self.drills,
            depth=self._request.depth,
            percent=self._request.sample_percent,
            most_bytes=self._request.sample_bytes,
        )
        chosen = [one for one in everything if one.identity in turns]
        self._look_for_overwritten(promises)
        # Listed after the manifests were read: what they name was written before them.
        self._look(versions=any(any(one.versions.values()) for one in everything))
        self._check_documents(everything, chosen)
        with ThreadPoolExecutor(self._request.concurrency) as pool:
            try:
                return self._without_pruned(list(pool.map(self._look_at, chosen)))
            except BaseException:
                # What is true of one is true of the others: a store that fails, a signal.
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _without_pruned(self, results: list[Looked]) -> list[Looked]:
        """Take back what is said of snapshots that somebody has pruned meanwhile."""
        if not self.damaged and not any(result.damaged for result in results):
            return results
        names = list_documents(self._destination, self._layout)
        there = {name.snapshot_id for name in names}
        self.damaged = of_snapshots(self.damaged, there)
        found = [(result, of_snapshots(result.damaged, there)) for result in results]
        return [
            replace(
                result, line=result.line.model_copy(update={"ok": not damaged}), damaged=damaged
            )
            for result, damaged in found
        ]

    def key_of(self, one: Damage) -> str:
        """Return the key of a damaged object, relative to the root."""
        start = self._destination.uri(self._layout.key("x"))[:-1]
        return one.uri.removeprefix(start)

    def _keys(self, damaged: Iterable[Damage]) -> set[str]:
        return {self.key_of(one) for one in damaged}

    def _look_for_overwritten(self, promises: Promises) -> None:
        """Name manifests that were replaced, hidden or lost; what is there is read all the same.

        And a root of which nothing is left to be read but the objects of its repositories.
        """
        uri = self._destination.uri
        for one in hidden_documents(self._destination, self._layout):
            problem = f"a delete marker hides it; {one.fix}"
            self.damaged.append(Damage(one.uri, problem, (), (one.name.snapshot_id,)))
        if (lost := self._lost_index(promises)) is not None:
            snapshots = uri(self._layout.key("snapshots"))
            self.damaged.append(Damage(snapshots, lost.message, (), (), fix=lost.error.hint))
        for stem in sorted(missing_manifests(self._destination, self._layout)):
            problem = f"it is missing, and no prune deleted it: {way_back(promises.has_index)}"
            self.damaged.append(Damage(uri(self._layout.document_of(stem)), problem, (), ()))
        try:
            found = [*self._destination.versions(self._layout.folder("snapshots"))]
        except DestinationError as error:
            if error.retryable:
                raise
            return
        for each in found:
            name = self._layout.parse_document(each.key)
            if name is not None and each.count > 1:
                problem = f"it was overwritten: its version {each.first} was written"
                self.damaged.append(Damage(uri(each.key), problem, (), (name.snapshot_id,)))

    def _lost_index(self, promises: Promises) -> LostIndex | None:
        if promises.has_index or promises.state is None:
            # Where no state is known a manifest is there, and is named as damaged.
            return None
        return lost_index(self._destination, self._layout, promises.state)

    def _check_documents(self, everything: Sequence[Promised], chosen: Iterable[Promised]) -> None:
        """Read what no run's own document names; beside bundles at the deeper depths, by turns."""
        turn = {one.identity for one in chosen}
        others = [one for one in everything if one.identity not in turn]
        left_out = {folder_of(key) for one in others for key in one.snapshots}
        is_quick = self._request.depth == "objects"
        listed = () if is_quick else (k for k in self._sizes if folder_of(k) not in left_out)
        damaged, newer = damaged_documents(
            self._destination,
            self._layout,
            listed,
            named={key for one in everything for key in one.snapshots},
            holders=holders_by_folder(everything),
            concurrency=self._request.concurrency,
            stop=self._stop,
        )
        self.damaged += damaged
        self.newer += newer

    def _look(self, *, versions: bool) -> None:
        """List everything stored of repositories, by key relative to the root."""
        try:
            self._list(versions=versions)
        except DestinationError as error:
            if error.retryable or not versions:
                raise
            self._events.note(f"versions are not compared: {error.message}")
            self._versions.clear()
            self._list(versions=False)

    def _list(self, *, versions: bool) -> None:
        folder, prefix = self._layout.folder("repositories"), self._layout.prefix
        for stored in self._destination.list(folder, versions=versions):
            key = stored.key.removeprefix(prefix)
            self._sizes[key] = stored.size_bytes
            if stored.version_id is not None:
                self._versions[key] = stored.version_id
        # Whether a file of Git LFS is the one that was written, its name tells.
        for stored in self._destination.list(self._layout.folder("lfs")):
            self._sizes[stored.key.removeprefix(prefix)] = stored.size_bytes

    # --- One repository --------------------------------------------------------------------------

    def _look_at(self, one: Promised) -> Looked:
        began = time.monotonic()
        self._events.capturing(one.name, "verify", self._request.depth)
        look = Look()
        try:
            records, damaged = self._read_records(
                one, look, all_of_them=self._request.depth != "objects"
            )
            problems = self._compare(records)
            is_quick = self._request.depth == "objects"
            if is_quick and (problems or self._check_files(one, records, look, without=problems)):
                # Who depends on what is damaged stands in the records that were passed over.
                records, damaged = self._read_records(one, look, all_of_them=True)
                problems = self._compare(records)
            if self._request.depth == "packs":
                problems |= self._index(records, look, without=problems)
            damaged += self._dependants(one, records, problems)
            damaged += self._check_files(one, records, look, without=problems)
            if self._request.depth == "restore":
                damaged += self._rebuild(one, records, look, without=problems)
        finally:
            self._events.ended(one.name)
        look.note_needed(self.drills.standing, one.snapshots, records.values())
        newest = with_a_chain(records, one.newest)
        kind, host_id = one.identity
        seconds = time.monotonic() - began
        line = DrillLine(
            host_id=host_id,
            kind=kind,
            record=one.newest,
            ok=not damaged,
            not_readable=len(look.archived),
            duration_seconds=seconds,
        )
        return Looked(
            line,
            of_repository(damaged, one, records, key_of=self.key_of),
            name=one.name,
            not_verified=look.not_verified,
            unsearched=unsearched_packs([records[newest]] if newest in records else []),
            needed=None if look.unreadable_record else frozenset(look.needed),
            sound=look.sound(
                self.drills.standing,
                depth=self._request.depth,
                damaged=self._keys(damaged),
                records=records,
            ),
            archived=frozenset(look.archived),
        )

    def _read_records(
        self, one: Promised, look: Look, *, all_of_them: bool
    ) -> tuple[dict[str, Record], list[Damage]]:
        """Read the records that manifests name, the newest first.

        One whose bundle lies in the chain of a newer record has a beginning of that chain for its
        own, and needs no reading to be compared with a listing, unless the older one may promise
        files of Git LFS that the newer one does not. What is in it is read at the deeper depths.
        """
        records: dict[str, Record] = {}
        damaged: list[Damage] = []
        covered: set[str] = set()
        newest_first = sorted(one.snapshots, key=lambda key: (key == one.newest, key), reverse=True)
        for key in newest_first:
            uri = self._destination.uri(self._layout.key(key))
            snapshots = tuple(one.snapshots[key])
            if problem := self._differs(key, version_id=one.versions[key]):
                damaged.append(Damage(uri, problem, (one.name,), snapshots, one.private))
                look.unreadable_record = True
                continue
            if not all_of_them and not covered.isdisjoint(bundles_beside(key)):
                continue
            self._stop.check()
            try:
                record = record_of(
                    self._destination,
                    self._layout,
                    key,
                    version=one.versions[key],
                    identity=one.identity,
                    name=one.name,
                )
            except ObjectArchived:
                look.archived.add(key)
                look.unreadable_record = True
                continue
            except IntegrityError as error:
                damaged.append(Damage(uri, error.message, (one.name,), snapshots, one.private))
                look.unreadable_record = True
                continue
            records[key] = record
            if promises_all_files(record):
                covered.update(line.key for line in record.chain)
        return records, damaged

    def _compare(self, records: Mapping[str, Record]) -> dict[str, str]:
        """Compare every bundle with the listing; map those that differ to what is wrong."""
        problems = {}
        for record in records.values():
            for line in record.chain:
                problem = self._differs(
                    line.key, version_id=line.version_id, size_bytes=line.size_bytes
                )
                if problem:
                    problems[line.key] = problem
                for key in line.documents:
                    # No git object is in it: what was captured with it comes back all the same.
                    if problem := self._differs(key, version_id=None):
                        problems[key] = problem
        return problems

    def _differs(self, key: str, *, version_id: str | None, size_bytes: int | None = None) -> str:
        """Say how an object is not the one that was written, as far as a listing tells."""
        size, version = self._sizes.get(key), self._versions.get(key)
        if size is None:
            hidden = hidden_words(self._destination, self._layout, key)
            return f"it is missing: {hidden}" if hidden else "it is missing"
        if size_bytes is not None and size != size_bytes:
            return f"it has {size} bytes, recorded were {size_bytes}"
        if version_id is not None and version not in (None, version_id):
            return f"its version {version} is current, {version_id} was written"
        return ""

    def _index(
        self, records: Mapping[str, Record], look: Look, *, without: Mapping[str, str]
    ) -> dict[str, str]:
        """Read every bundle once and let git index its pack."""
        problems = {}
        bundles = {
            line.key: (line, record.object_format)
            for record in records.values()
            for line in record.chain
            if line.key not in without
        }
        for key, (line, object_format) in bundles.items():
            try:
                prove_bundle(
                    self._destination,
                    self._layout,
                    line,
                    object_format=object_format,
                    events=self._events,
                    stop=self._stop,
                )
            except ObjectArchived:
                look.archived.add(key)
            except IntegrityError as error:
                problems[key] = error.message
            except (TemporaryFolderError, MachineLimitReached, GitFailed) as error:
                look.not_verified = with_hint(error)
            else:
                look.indexed.add(key)
        return problems

    def _check_files(
        self,
        one: Promised,
        records: Mapping[str, Record],
        look: Look,
        *,
        without: Mapping[str, str],
    ) -> list[Damage]:
        """Look for the files of Git LFS that records promise; at deeper depths read them.

        Args:
            one: the repository.
            records: of it, by their keys.
            look: takes up what is seen on the way.
            without: objects that are known to be damaged.
        """
        problems: dict[str, str] = {}
        snapshots: dict[str, set[str]] = {}
        indexes: dict[str, tuple[Pointer, ...]] = {}
        for key, record in records.items():
            for line in record.chain:
                problems |= self._ids_problem(line, without, problems)
                if line.lfs is not None and line.lfs in without:
                    look.unreadable_record = True
                if line.lfs is None or line.lfs in without or line.lfs in indexes:
                    continue
                self._stop.check()
                try:
                    indexes[line.lfs] = read_index(
                        self._destination, self._layout, line.lfs, sha256=line.lfs_sha256
                    )
                except ObjectArchived:
                    indexes[line.lfs] = ()
                    look.archived.add(line.lfs)
                    look.unreadable_record = True
                except IntegrityError as error:
                    look.unreadable_record = True
                    indexes[line.lfs] = ()
                    problems[line.lfs] = error.message
            for relative in self._bad_files(record, indexes, problems, look):
                snapshots.setdefault(relative, set()).update(one.snapshots[key])
        return [
            Damage(
                self._destination.uri(self._layout.key(relative)),
                problems[relative],
                (one.name,),
                tuple(sorted(snapshots[relative])),
                one.private,
            )
            for relative in sorted(problems)
        ]

    def _bad_files(
        self,
        record: Record,
        indexes: Mapping[str, tuple[Pointer, ...]],
        problems: dict[str, str],
        look: Look,
    ) -> Iterator[str]:
        """Yield the keys of what is wrong with a record's files, and note in `problems` what."""
        yield from (key for line in record.chain for key in line.documents if key in problems)
        if record.lfs is None:
            return
        missing = {one.oid for one in record.lfs.not_stored}
        for line in record.chain:
            # Of a file that has several sizes the largest counts.
            listed = {one.oid: one for one in indexes.get(line.lfs or "", ())}
            for oid, pointer in listed.items():
                if oid in missing:
                    continue
                key = lfs_key(oid)
                if key in self.drills.standing:
                    look.needed.add(key)
                problem = self._file_problem(pointer)
                if problem is None:
                    look.archived.add(key)
                elif problem:
                    problems[key] = problem
                    yield key

    def _ids_problem(
        self, line: BundleLine, without: Mapping[str, str], known: Mapping[str, str]
    ) -> dict[str, str]:
        """Return what is wrong with the list of ids beside a bundle, where it is another one."""
        key, sha256 = line.ids, line.ids_sha256
        is_quick = self._request.depth == "objects"
        if key is None or sha256 is None or is_quick or key in without or key in known:
            return {}
        try:
            load(self._destination, self._layout.key(key), Ids, sha256=sha256)
        except (ObjectArchived, ObjectNotFound):
            return {}
        except IntegrityError as error:
            return {key: error.message}
        return {}

    def _file_problem(self, pointer: Pointer) -> str | None:
        """Say what is wrong with a file; empty where nothing is, None where it is archived."""
        oid = pointer.oid
        with self._lock:
            if oid in self._files:
                return self._files[oid]
        problem: str | None
        size = self._sizes.get(lfs_key(oid))
        if size is None:
            hidden = hidden_words(self._destination, self._layout, lfs_key(oid))
            problem = f"it is missing: {hidden}" if hidden else "it is missing"
        elif self._request.depth == "objects" and size == pointer.size_bytes:
            problem = ""
        else:
            self._stop.check()
            # Anybody can commit a pointer that has another size.
            try:
                problem = problem_of(self._destination, self._layout, oid)
            except ObjectArchived:
                problem = None
        with self._lock:
            self._files[oid] = problem
        return problem

    def _dependants(
        self, one: Promised, records: Mapping[str, Record], problems: Mapping[str, str]
    ) -> list[Damage]:
        damaged = []
        for bundle, problem in sorted(problems.items()):
            snapshots = {
                snapshot
                for key, record in records.items()
                if any(bundle in {line.key, *line.documents} for line in record.chain)
                for snapshot in one.snapshots[key]
            }
            uri = self._destination.uri(self._layout.key(bundle))
            damaged.append(Damage(uri, problem, (one.name,), tuple(sorted(snapshots)), one.private))
        return damaged

    def _rebuild(
        self,
        one: Promised,
        records: Mapping[str, Record],
        look: Look,
        *,
        without: Mapping[str, str],
    ) -> list[Damage]:
        """Rebuild the newest state; what fails is put down to the bundles that are damaged.

        Of a repository that was emptied it is the last one that holds anything.
        """
        key = with_a_chain(records, one.newest)
        if key not in records or not without.keys().isdisjoint(
            line.key for line in records[key].chain
        ):
            return []
        record = records[key]
        try:
            prove_repository(
                self._destination,
                self._layout,
                record,
                transferred=lambda size: self._events.transferred(one.name, size),
                events=self._events,
                stop=self._stop,
            )
        except ObjectArchived:
            problem = ""
        except IntegrityError as error:
            problem = error.message
        except (TemporaryFolderError, MachineLimitReached, GitFailed) as error:
            look.not_verified = with_hint(error)
            return []
        else:
            look.rebuilt = key
            return []
        if problems := self._index({key: record}, look, without={}):
            return self._dependants(one, records, problems)
        if not problem:
            # Nothing more can be said before what is archived is thawed.
            return []
        # Every bundle is as it was stored, and still they do not make the repository.
        uri = self._destination.uri(self._layout.key(key))
        return [Damage(uri, problem, (one.name,), tuple(one.snapshots[key]), one.private)]


def _of_packs(unsearched: int) -> str:
    return f"{packs_were(unsearched)} not searched for files of Git LFS, and some may be missing"
