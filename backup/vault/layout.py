"""Every object key in one place; the only module that joins parts of keys.

::

    <host>/<owner>/                                       a root: one owner of one host
      snapshots/<snapshot-id>[.shard-I-of-N].json.gz
      checkpoints/<snapshot-id>[.shard-I-of-N].<n>.json.gz
      checkpoints/<snapshot-id>.forgotten.json.gz         what somebody had the vault forget
      repositories/<path>/<host-id>/<snapshot-id>.full.bundle
      repositories/<path>/<host-id>/<snapshot-id>.incremental.bundle
      repositories/<path>/<host-id>/<snapshot-id>.record.json.gz
      repositories/<path>/<host-id>/<snapshot-id>.ids.json.gz
      repositories/<path>/<host-id>/<snapshot-id>.metadata.jsonl.gz
      repositories/<path>/<host-id>/<snapshot-id>.lfs.json.gz
      lfs/<aa>/<bb>/<oid>        assets/<aa>/<bb>/<sha256>
      condemned/<snapshot-id>.json.gz                     files that a prune may delete
      pruned/<snapshot-id>.json.gz                        manifests that a prune left
      exports/<path>/<YYYY-MM-DD-HH-MM-SS>.tar.gz
      drills/<snapshot-id>.json.gz
      accepted/<snapshot-id>.json.gz                      damage that an owner accepts

Inside documents keys are relative to their root, so that a root can be copied anywhere.
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from backup.model import BundleKind, Key

SNAPSHOT_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]{4,32}", re.ASCII)
_TIME = "%Y%m%dT%H%M%SZ"
DOCUMENT_FOLDERS = frozenset({"snapshots", "checkpoints"})
# What runs store below a root, apart from documents about runs.
_OBJECT_FOLDERS = ("repositories", "lfs", "exports")
# The number of a checkpoint that is of no run; the word stands in its key.
_FORGOTTEN = 0
_MAX_SEGMENT_BYTES = 120
_MAX_PATH_BYTES = 480
_HASH_DIGITS = 16
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
# Names that Windows keeps for devices, with or without an ending.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
_EXPORT_TIME = "%Y-%m-%d-%H-%M-%S"
_EXPORT = re.compile(r"exports/.+/(?P<moment>\d{4}(?:-\d\d){5})\.tar\.gz", re.ASCII)
_LFS_OID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OF_REPOSITORY = re.compile(
    r"(?P<id>\d{8}T\d{6}Z-[0-9a-z]{4,32})"
    r"\.(?:full\.bundle|incremental\.bundle|record\.json\.gz|metadata\.jsonl\.gz|lfs\.json\.gz"
    r"|ids\.json\.gz)",
    re.ASCII,
)
_DOCUMENT = re.compile(
    r"(?P<folder>snapshots|checkpoints)/(?P<id>\d{8}T\d{6}Z-[0-9a-z]{4,32})"
    r"(?:\.shard-(?P<index>\d+)-of-(?P<count>\d+))?(?:\.(?P<number>\d+|forgotten))?\.json\.gz",
    re.ASCII,
)


def new_snapshot_id(now: datetime) -> str:
    """Make an id that begins with the time and that no other run has."""
    return f"{now.astimezone(UTC).strftime(_TIME)}-{secrets.token_hex(4)}"


@lru_cache(maxsize=4096)
def is_snapshot_id(text: str) -> bool:
    """Tell whether a text is a snapshot id, its time a real one."""
    try:
        return SNAPSHOT_ID.fullmatch(text) is not None and bool(snapshot_time(text))
    except ValueError:
        return False


def snapshot_time(snapshot_id: str) -> datetime:
    """Return the time an id begins with. Good for finding documents, never for ordering them."""
    return datetime.strptime(snapshot_id.partition("-")[0], _TIME).replace(tzinfo=UTC)


def escape_segment(text: str) -> str:
    """Turn one name into one key segment that no store and no file system mangles.

    Letters, digits, ``-``, ``_`` and ``.`` stand as they are; every other byte of the UTF-8 form
    becomes ``%XX``, as do a leading or trailing dot and the first letter of a Windows device name.
    A result over 120 bytes is cut and ended with ``~`` and 16 digits of the name's SHA-256, so
    different names never give one segment.
    """
    raw = text.encode("utf-8", "surrogateescape")
    escaped = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    if escaped.startswith(".") or _DEVICE.match(escaped):
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    if escaped.endswith("."):
        escaped = f"{escaped[:-1]}%2E"
    if not escaped:
        raise ValueError("a key segment cannot be empty")
    return _cut(escaped, raw, _MAX_SEGMENT_BYTES)


def escape_path(path: str) -> str:
    """Escape each segment of a repository's path; a very long path is cut like a segment."""
    joined = "/".join(escape_segment(segment) for segment in path.split("/"))
    return _cut(joined, path.encode("utf-8", "surrogateescape"), _MAX_PATH_BYTES)


def _cut(escaped: str, raw: bytes, limit: int) -> str:
    if len(escaped) <= limit:
        return escaped
    kept = re.sub(r"(?:%.?|/)$", "", escaped[: limit - _HASH_DIGITS - 1])
    return f"{kept}~{hashlib.sha256(raw).hexdigest()[:_HASH_DIGITS]}"


@dataclass(frozen=True, slots=True, order=True)
class DocumentName:
    """The name of a manifest or checkpoint, taken apart.

    Attributes:
        shard: index (from 1) and count, for a part of a run.
        checkpoint: the checkpoint's number, from 1; None for a manifest; 0 for one that says what
            is forgotten.
        stored_at: when its object was written, by the store's clock; None where that is not known.
    """

    snapshot_id: str
    shard: tuple[int, int] | None = None
    checkpoint: int | None = None
    stored_at: datetime | None = field(default=None, compare=False)

    @property
    def time(self) -> datetime:
        """The time that its id begins with, by the clock of the run."""
        return snapshot_time(self.snapshot_id)

    @property
    def stem(self) -> str:
        """The key relative to the root, without its ending; how documents name each other."""
        folder = "snapshots" if self.checkpoint is None else "checkpoints"
        shard = "" if self.shard is None else f".shard-{self.shard[0]}-of-{self.shard[1]}"
        number = "" if self.checkpoint is None else f".{self.checkpoint or 'forgotten'}"
        return f"{folder}/{self.snapshot_id}{shard}{number}"

    @classmethod
    def of_forgotten(cls, snapshot_id: str) -> "DocumentName":
        """Name the document that has repositories forgotten; a bucket lets no run write it."""
        return cls(snapshot_id, checkpoint=_FORGOTTEN)

    @property
    def is_forgotten(self) -> bool:
        """Whether it is such a document."""
        return self.checkpoint == _FORGOTTEN

    @property
    def manifest(self) -> "DocumentName":
        """The name of the manifest that ends the run of this checkpoint."""
        return DocumentName(self.snapshot_id, self.shard)


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one root.

    Attributes:
        prefix: ``<host>/<owner>/``.
    """

    prefix: str

    @classmethod
    def of(cls, *, host: str, owner: str) -> "Layout":
        """Make the layout for an owner; a host's port is joined by ``-``."""
        return cls(f"{escape_segment(host.replace(':', '-'))}/{escape_segment(owner)}/")

    def key(self, relative: str) -> Key:
        """Return the whole key of what a document names."""
        return Key(self.prefix + relative)

    def document(self, name: DocumentName) -> Key:
        """Return the key of a manifest or checkpoint."""
        return self.document_of(name.stem)

    def document_of(self, stem: str) -> Key:
        """Return the key of a manifest or checkpoint that documents name by its stem."""
        return self.key(f"{stem}.json.gz")

    def drill(self, snapshot_id: str) -> Key:
        """Return the key of a verification's result."""
        return self.key(f"drills/{snapshot_id}.json.gz")

    def accepted(self, snapshot_id: str) -> Key:
        """Return the key of a document that says which damage is accepted."""
        return self.key(f"accepted/{snapshot_id}.json.gz")

    def condemned(self, snapshot_id: str) -> Key:
        """Return the key of a list of files that a prune may delete."""
        return self.key(f"condemned/{snapshot_id}.json.gz")

    def pruned(self, snapshot_id: str) -> Key:
        """Return the key of the note about the manifests that a prune left."""
        return self.key(f"pruned/{snapshot_id}.json.gz")

    def parse_document(self, key: str) -> DocumentName | None:
        """Take the key of a manifest or checkpoint apart; None for any other object."""
        found = _DOCUMENT.fullmatch(key.removeprefix(self.prefix))
        if found is None or (found["folder"] == "checkpoints") != (found["number"] is not None):
            return None
        shard = None if found["index"] is None else (int(found["index"]), int(found["count"]))
        if shard is not None and not 1 <= shard[0] <= shard[1]:
            return None
        number = _FORGOTTEN if found["number"] == "forgotten" else None
        if found["number"] is not None and number is None:
            number = int(found["number"])
        name = DocumentName(found["id"], shard, number)
        # Only what this program would write itself: a real time, numbers without leading zeros.
        return name if is_snapshot_id(found["id"]) and self.document(name) == key else None

    def object_folders(self, there: Collection[str] = _OBJECT_FOLDERS) -> tuple[str, ...]:
        """Return the prefixes under which runs store what is of repositories.

        Args:
            there: names of folders; others are left out.
        """
        return tuple(f"{self.prefix}{name}/" for name in _OBJECT_FOLDERS if name in there)

    def is_object(self, key: str) -> bool:
        """Return whether a run stored this object of a repository, as far as its key tells."""
        relative = key.removeprefix(self.prefix)
        return bool(is_of_repository(relative) or lfs_oid(relative) or export_time(relative))

    def folder(
        self,
        kind: Literal[
            "snapshots",
            "checkpoints",
            "repositories",
            "lfs",
            "condemned",
            "pruned",
            "drills",
            "accepted",
            "exports",
        ],
    ) -> str:
        """Return the prefix under which objects of one kind are listed."""
        return f"{self.prefix}{kind}/"


def folder(*segments: str) -> str:
    """Join segments that are escaped already to a prefix."""
    return "".join(f"{segment}/" for segment in segments)


def folder_of(key: str) -> str:
    """Return the prefix that a key lies under."""
    return key[: key.rindex("/") + 1]


def segment_of(key: str) -> str:
    """Return the last segment of the folder that a key lies in; of a repository, that of its id."""
    return key.rpartition("/")[0].rpartition("/")[2]


def repository_folder(*, path: str, host_id: str) -> str:
    """Return the prefix of one repository's objects, relative to the root."""
    return f"repositories/{escape_path(path)}/{escape_segment(host_id)}/"


def exports_folder(path: str) -> str:
    """Return the prefix of a project's archives, relative to the root."""
    return f"exports/{escape_path(path)}/"


def export_key(path: str, requested_at: datetime) -> Key:
    """Return the relative key of a project's archive."""
    moment = requested_at.astimezone(UTC).strftime(_EXPORT_TIME)
    return Key(f"{exports_folder(path)}{moment}.tar.gz")


def bundle_key(folder: str, snapshot_id: str, kind: BundleKind) -> Key:
    """Return the relative key of a bundle."""
    return Key(f"{folder}{snapshot_id}.{kind}.bundle")


def lfs_index_key(folder: str, snapshot_id: str) -> Key:
    """Return the relative key of the ids of LFS objects that one capture's pack points to."""
    return Key(f"{folder}{snapshot_id}.lfs.json.gz")


def ids_key(folder: str, snapshot_id: str) -> Key:
    """Return the relative key of the ids of the commits, trees and tags in a full's pack."""
    return Key(f"{folder}{snapshot_id}.ids.json.gz")


def lfs_key(oid: str) -> Key:
    """Return the relative key of a file of Git LFS; the same that git-lfs has in its folder."""
    return Key(f"lfs/{oid[:2]}/{oid[2:4]}/{oid}")


def lfs_oid(key: str) -> str:
    """Return the id of the file that a relative key is of; empty if it is of none."""
    oid = key.rpartition("/")[2]
    return oid if _LFS_OID.fullmatch(oid) and lfs_key(oid) == key else ""


def is_lfs_index(key: str) -> bool:
    """Tell whether a key is that of what a pack points to."""
    return key.endswith(".lfs.json.gz")


def is_ids(key: str) -> bool:
    """Return whether a key is that of the ids in a full's pack."""
    return key.endswith(".ids.json.gz")


def condemned_of(layout: Layout, key: str) -> str:
    """Return the snapshot id of a list of files that a prune may delete; empty if it is none."""
    snapshot_id = key.rpartition("/")[2].removesuffix(".json.gz")
    is_one = is_snapshot_id(snapshot_id) and layout.condemned(snapshot_id) == key
    return snapshot_id if is_one else ""


def drill_of(layout: Layout, key: str) -> str:
    """Return the snapshot id of a verification's result; empty if the key is of none."""
    snapshot_id = key.rpartition("/")[2].removesuffix(".json.gz")
    is_one = is_snapshot_id(snapshot_id) and layout.drill(snapshot_id) == key
    return snapshot_id if is_one else ""


def accepted_of(layout: Layout, key: str) -> str:
    """Return the snapshot id of a document of accepted damage; empty if the key is of none."""
    snapshot_id = key.rpartition("/")[2].removesuffix(".json.gz")
    is_one = is_snapshot_id(snapshot_id) and layout.accepted(snapshot_id) == key
    return snapshot_id if is_one else ""


def pruned_of(layout: Layout, key: str) -> str:
    """Return the snapshot id of a note about the manifests that a prune left; empty if none."""
    snapshot_id = key.rpartition("/")[2].removesuffix(".json.gz")
    is_one = is_snapshot_id(snapshot_id) and layout.pruned(snapshot_id) == key
    return snapshot_id if is_one else ""


def bundles_beside(document: str) -> tuple[Key, Key]:
    """Return the keys that the bundle may have that a record, or what it points to, lies beside."""
    stem = document.removesuffix(".record.json.gz").removesuffix(".lfs.json.gz")
    return Key(f"{stem}.full.bundle"), Key(f"{stem}.incremental.bundle")


def record_beside(bundle: str) -> Key:
    """Return the relative key of the record that was written with a bundle."""
    stem = bundle.removesuffix(".full.bundle").removesuffix(".incremental.bundle")
    return Key(f"{stem}.record.json.gz")


def snapshot_of(key: str) -> str:
    """Return the id of the snapshot that made a repository's object; empty if none did."""
    found = _OF_REPOSITORY.fullmatch(key.rpartition("/")[2])
    return found["id"] if found is not None and is_snapshot_id(found["id"]) else ""


def export_time(key: str) -> datetime | None:
    """Return when an export was asked for, from its key; None if it is no export's."""
    found = _EXPORT.fullmatch(key)
    try:
        return None if found is None else _moment(found["moment"])
    except ValueError:
        return None


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _EXPORT_TIME).replace(tzinfo=UTC)


def is_record(key: str) -> bool:
    """Tell whether a key is a record's."""
    return key.endswith(".record.json.gz")


def is_of_repository(key: str) -> bool:
    """Return whether a relative key is one that a run can have given an object of a repository."""
    return key.startswith("repositories/") and bool(snapshot_of(key))


def is_key_of_record(key: str) -> bool:
    """Tell whether a relative key is one that a run can have given a record."""
    return is_record(key) and is_of_repository(key)


def is_bundle(key: str) -> bool:
    """Tell whether a key is a bundle's."""
    return key.endswith(".bundle")


def record_key(folder: str, snapshot_id: str) -> Key:
    """Return the relative key of a record."""
    return Key(f"{folder}{snapshot_id}.record.json.gz")
