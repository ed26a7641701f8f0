"""Gives the content of a chain back: its packs one after another, then refs and HEAD, each proved.

Restore keeps what comes of it, verify throws it away.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from backup.errors import (
    BrokenChain,
    ChecksumMismatch,
    DamagedDocument,
    ObjectNotFound,
    RefusedByGit,
)
from backup.git.bundle import read_header
from backup.git.rebuild import Rebuild
from backup.git.work import work_folder
from backup.model import Destination, Events, ObjectFormat, ObjectId, RefName
from backup.stopping import Stop
from backup.vault.documents import BundleLine, Record
from backup.vault.layout import Layout
from backup.vault.manifest import Identity, load_record

_CHUNK_BYTES = 1 << 18


def record_of(
    destination: Destination,
    layout: Layout,
    key: str,
    *,
    version: str | None,
    identity: Identity,
    name: str,
) -> Record:
    """Read a repository's record, and see that it is this repository's and has its own key.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        key: of the record.
        version: that was written, where it is known.
        identity: of the repository.
        name: how people name it.

    Raises:
        BrokenChain: it is missing.
        DamagedDocument: it cannot be read, or is another's.
    """
    try:
        record = load_record(destination, layout, key, version=version)
    except ObjectNotFound as error:
        raise BrokenChain(f"{name}: its record is missing: {error.message}") from error
    is_its_own = key.rpartition("/")[2].startswith(f"{record.snapshot_id}.")
    found = record.repository
    if (found.kind, found.host_id) != identity or not is_its_own:
        uri = destination.uri(layout.key(key))
        raise DamagedDocument(
            f"{uri} is damaged: it holds the record of {found.path} (id {found.host_id}) "
            f"in snapshot {record.snapshot_id}"
        )
    return record


def rebuild_repository(
    destination: Destination,
    layout: Layout,
    record: Record,
    folder: Path,
    *,
    beside: Sequence[tuple[Record, Mapping[RefName, ObjectId]]] = (),
    checkout: bool = False,
    temporary: bool = False,
    transferred: Callable[[int], None],
    stop: Stop,
) -> None:
    """Build a repository in a folder that nobody else knows, and prove it whole.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        record: the state to give back.
        folder: becomes the mirror, or with checkout the folder with the files.
        beside: other records of it, each with refs to take from its chain as well.
        checkout: make a working clone.
        temporary: whether the folder lies in the temporary one.
        transferred: hears of the bytes that are read.
        stop: ends it.

    Raises:
        IntegrityError: something stored is missing or damaged.
        DestinationError: it could not be read, or the disk is full.
        TemporaryFolderError: with temporary, in place of the latter.
        GitFailed: with checkout, git refuses a file.
    """
    rebuild = Rebuild(
        folder / ".git" if checkout else folder,
        object_format=record.object_format,
        temporary=temporary,
        stop=stop,
    )
    chains = (record.chain, *(other.chain for other, _ in beside))
    bundles = {bundle.key: bundle for chain in chains for bundle in chain}
    for bundle in bundles.values():
        rebuild.add_pack(
            verified_pack(destination, layout, bundle, transferred=transferred),
            # Alone it must hold everything; of a chain only the whole can.
            connected=len(bundles) == 1,
            where=destination.uri(layout.key(bundle.key)),
        )
    tips = record.tips()
    for _, refs in beside:
        tips |= refs
    wanted = [*dict.fromkeys((*tips.values(), *_detached(record)))]
    rebuild.prove_present(wanted)
    if len(bundles) > 1:
        rebuild.prove_connected(wanted)
    rebuild.set_refs(tips)
    rebuild.set_head(symref=record.head.symref_name, oid=head_id(record))
    if checkout:
        rebuild.check_out(folder)


def prove_bundle(
    destination: Destination,
    layout: Layout,
    bundle: BundleLine,
    *,
    object_format: ObjectFormat,
    events: Events,
    stop: Stop,
) -> None:
    """Read a bundle and have git index its pack, which is then thrown away.

    Raises:
        IntegrityError: it is missing or damaged.
        DestinationError: it could not be read.
        TemporaryFolderError: there is no place to index it, or somebody took files from there.
    """

    def index(folder: Path) -> None:
        Rebuild(folder, object_format=object_format, temporary=True, stop=stop).add_pack(
            verified_pack(destination, layout, bundle, transferred=lambda _size_bytes: None),
            connected=False,
            where=destination.uri(layout.key(bundle.key)),
        )

    _by_git(index, events)


def prove_repository(
    destination: Destination,
    layout: Layout,
    record: Record,
    *,
    transferred: Callable[[int], None],
    events: Events,
    stop: Stop,
) -> None:
    """Rebuild a repository as `rebuild_repository` does, and throw it away.

    Raises:
        BackupError: as `rebuild_repository` and `prove_bundle` do.
    """

    def rebuild(folder: Path) -> None:
        rebuild_repository(
            destination,
            layout,
            record,
            folder,
            temporary=True,
            transferred=transferred,
            stop=stop,
        )

    _by_git(rebuild, events)


def _by_git(judge: Callable[[Path], None], events: Events) -> None:
    """Have git judge in a folder of its own; what it refuses it must refuse in another one, too."""
    try:
        with work_folder() as folder:
            judge(folder / "mirror.git")
    except RefusedByGit:
        with work_folder() as folder:
            judge(folder / "mirror.git")
        events.note(
            "git refused a repository in one folder and took the same bytes in another: do not "
            "rely on the temporary folder, name another in TMPDIR"
        )


def verified_pack(
    destination: Destination,
    layout: Layout,
    bundle: BundleLine,
    *,
    transferred: Callable[[int], None],
) -> Iterator[bytes]:
    """Yield the pack of a bundle, and at its end prove that the object is the recorded one.

    Raises:
        BrokenChain: the object is missing.
        ChecksumMismatch: it is another than was recorded; whatever was yielded is worthless.
    """
    key = layout.key(bundle.key)
    uri = destination.uri(key)
    digest, size_bytes = hashlib.sha256(), 0
    try:
        reader = destination.open(key, version=bundle.version_id)
    except ObjectNotFound as error:
        raise BrokenChain(f"{uri} is missing, and the chain needs it") from error
    with reader:

        def read(size: int) -> bytes:
            nonlocal size_bytes
            data = reader.read(size)
            digest.update(data)
            size_bytes += len(data)
            transferred(len(data))
            return data

        try:
            _, first = read_header(read)
        except DamagedDocument as error:
            raise DamagedDocument(f"{uri} is damaged: {error.message}") from error
        yield first
        while data := read(_CHUNK_BYTES):
            yield data
    if size_bytes != bundle.size_bytes or digest.hexdigest() != bundle.sha256:
        raise ChecksumMismatch(
            f"{uri} is damaged: {size_bytes} bytes with SHA-256 {digest.hexdigest()}, "
            f"recorded were {bundle.size_bytes} with {bundle.sha256}",
            hint="once verify --depth packs has noted the damage, the next run takes a new full if "
            "the source still has the repository",
        )


def _detached(record: Record) -> list[ObjectId]:
    return [] if record.head.id is None or record.head.symref else [ObjectId(record.head.id)]


def head_id(record: Record) -> ObjectId | None:
    """Give what HEAD resolves to; None when it is unborn."""
    return None if record.head.id is None else ObjectId(record.head.id)
