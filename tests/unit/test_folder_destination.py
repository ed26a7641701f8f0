"""What only folders have: file systems, permissions, processes that die, other programs' files."""

import errno
import fcntl
import hashlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any
from uuid import uuid4

import pytest

import backup
from backup.destinations.folder import FolderDestination
from backup.errors import (
    AccessDenied,
    DestinationError,
    IncompleteWrite,
    ObjectNotFound,
    WriteConflict,
)
from backup.model import Key
from tests.contract.destination_contract import (
    MEBIBYTE,
    keys_of,
    pattern,
    put,
    read,
    refuse_hard_links,
)
from tests.support import disks

KEY = Key("acme/widgets/one.bundle")
NOBODY = 65534

CHILD = """
import sys
from pathlib import Path
from backup.destinations.folder import FolderDestination
from backup.model import Key

with FolderDestination(Path(sys.argv[1])).writer(Key(sys.argv[2])) as writer:
    writer.write(b"written by a child")
    print("ready", flush=True)
    sys.stdin.readline()
    writer.commit()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def destination(root: Path) -> FolderDestination:
    return FolderDestination(root)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user of the machine can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes no object over a mebibyte: a full disk, or a limit for the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if (
        os.geteuid() == 0
        and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    ):
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, hard))
        try:
            yield disk
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_somebody() -> Iterator[None]:
    """Lay down what root may do; others keep to their permissions anyway."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def child_writing(root: Path, key: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has written half an object; a line of input makes it commit."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(backup.__file__).parents[1],
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def unfinished(root: Path) -> list[Path]:
    return list((root / ".partial").glob("*"))


def everything_in(root: Path) -> set[str]:
    """Name all files and folders but those of unfinished objects."""
    names = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {name for name in names if not name.startswith(".partial")}


def failing(reason: int) -> Callable[..., Any]:
    def fail(*words: object) -> None:
        raise OSError(reason, os.strerror(reason))

    return fail


class TestRoot:
    def test_looking_makes_no_folder(self, destination: FolderDestination, root: Path) -> None:
        assert keys_of(destination) == []
        assert destination.children("") == ()
        destination.delete([KEY])
        with pytest.raises(ObjectNotFound):
            destination.open(KEY)

        assert not root.exists()

    def test_the_first_writer_makes_it_with_the_folders_above(self, tmp_path: Path) -> None:
        root = tmp_path / "not" / "yet" / "there"
        put(FolderDestination(root), KEY)

        assert (root / KEY).read_bytes() == b"content"

    def test_it_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        destination = FolderDestination(tmp_path / "link")
        put(destination, KEY)

        assert keys_of(destination) == [KEY]
        assert destination.uri(KEY) == str(tmp_path / "link" / KEY)
        assert (tmp_path / "real" / KEY).is_file()

    def test_a_relative_one_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        destination = FolderDestination(Path("vault"))
        monkeypatch.chdir("/")
        put(destination, KEY)

        assert destination.uri(KEY) == str(tmp_path / "vault" / KEY)
        assert (tmp_path / "vault" / KEY).is_file()

    def test_a_file_in_its_place_is_an_error_and_never_an_empty_vault(
        self, destination: FolderDestination, root: Path
    ) -> None:
        root.write_bytes(b"")
        uses: list[Callable[[], object]] = [
            lambda: keys_of(destination),
            lambda: keys_of(destination, "acme/"),
            lambda: destination.children(""),
            lambda: destination.stat(KEY),
            lambda: destination.writer(KEY),
            lambda: destination.delete([KEY]),
        ]

        for use in uses:
            with pytest.raises(DestinationError, match=r"Not a directory|no folder") as caught:
                use()
            assert caught.type is DestinationError

    @pytest.mark.parametrize("key", [".partial", ".partial/x", ".PARTIAL/x"])
    def test_the_place_of_unfinished_objects_is_reserved(
        self, destination: FolderDestination, root: Path, key: str
    ) -> None:
        with destination.writer(KEY):
            assert len(unfinished(root)) == 1
            assert keys_of(destination) == []
            assert keys_of(destination, ".partial/") == []
            assert destination.children("") == ()

        for use in (destination.writer, destination.stat, destination.open):
            with pytest.raises(ValueError, match="no key"):
                use(Key(key))
        with pytest.raises(ValueError, match="no key"):
            destination.delete([Key(key)])


class TestFiles:
    def test_plain_tools_find_an_object_at_its_uri(self, destination: FolderDestination) -> None:
        put(destination, KEY, data=b"for everyone")

        assert Path(destination.uri(KEY)).read_bytes() == b"for everyone"

    def test_permissions_are_the_umasks_affair(
        self, destination: FolderDestination, root: Path
    ) -> None:
        before = os.umask(0o027)
        try:
            put(destination, KEY)
        finally:
            os.umask(before)

        assert (root / KEY).stat().st_mode & 0o777 == 0o640
        assert (root / KEY).parent.stat().st_mode & 0o777 == 0o750

    def test_links_and_files_that_have_no_key_are_left_alone(
        self, destination: FolderDestination, root: Path, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        put(destination, KEY)
        (root / "link").symlink_to(outside / "secret")
        (root / "folder").symlink_to(outside)
        (root / "dangling").symlink_to("nowhere")
        (root / "höhe").mkdir()
        (root / "höhe" / "x").write_bytes(b"")
        (root / "back\\slash").write_bytes(b"")
        os.mkfifo(root / "pipe")
        before = everything_in(root)

        assert keys_of(destination) == [KEY]
        assert keys_of(destination, "folder/") == []
        assert destination.children("") == ("acme",)
        names = [Key(name) for name in ("link", "folder/secret", "dangling", "pipe")]
        for name in names:
            with pytest.raises(ObjectNotFound):
                destination.stat(name)
            with pytest.raises(ObjectNotFound):
                destination.open(name)
            with pytest.raises(DestinationError, match=r"no file|no folder|exists") as caught:
                destination.put_if_absent(name, b"mine")
            assert caught.type is DestinationError
        destination.delete(names)
        assert everything_in(root) == before
        assert (outside / "secret").read_bytes() == b"secret"

    def test_an_object_and_a_folder_cannot_share_a_name(
        self, destination: FolderDestination, root: Path
    ) -> None:
        put(destination, "a/b")

        with pytest.raises(DestinationError, match="no file") as above:
            destination.put_if_absent(Key("a"), b"")
        with pytest.raises(DestinationError, match="no folder") as below:
            destination.put_if_absent(Key("a/b/c/d"), b"")

        assert {above.type, below.type} == {DestinationError}
        assert everything_in(root) == {"a", "a/b"}
        assert unfinished(root) == []

    @pytest.mark.parametrize(
        "key",
        [
            pytest.param("x" * 256, id="name"),
            pytest.param("a/" + "x" * 256, id="name below a folder"),
            pytest.param("x/" * 2100 + "x", id="path"),
        ],
    )
    def test_names_longer_than_the_system_takes_are_refused_and_leave_nothing(
        self, destination: FolderDestination, root: Path, key: str
    ) -> None:
        with pytest.raises(DestinationError, match="takes") as caught:
            destination.writer(Key(key))

        assert caught.type is DestinationError
        assert everything_in(root) == set()
        with pytest.raises(ObjectNotFound):
            destination.stat(Key(key))
        assert keys_of(destination, f"{key}/") == []
        destination.delete([Key(key)])

    def test_the_longest_path_that_the_system_takes_is_taken(
        self, destination: FolderDestination, root: Path
    ) -> None:
        room = os.pathconf("/", "PC_PATH_MAX") - 1 - len(str(root)) - 1
        key = ("/".join(["x" * 199] * 21))[: room - 1] + "x"
        put(destination, key)

        assert read(destination, key) == b"content"
        assert keys_of(destination) == [key]
        with pytest.raises(DestinationError, match="takes"):
            destination.writer(Key(key + "x"))
        destination.delete([Key(key)])
        assert everything_in(root) == set()

    def test_a_file_that_shrinks_while_it_is_read_is_an_error(
        self, destination: FolderDestination, root: Path
    ) -> None:
        content = pattern(MEBIBYTE)
        put(destination, KEY, data=content)

        with destination.open(KEY) as reader:
            assert reader.read(10) == content[:10]
            os.truncate(root / KEY, MEBIBYTE // 2)
            with pytest.raises(DestinationError, match="broke off"):
                reader.read()

    def test_deleting_removes_the_folders_it_empties_but_not_the_root(
        self, destination: FolderDestination, root: Path
    ) -> None:
        put(destination, "a/b/c/x", "a/y")

        destination.delete([Key("a/b/c/x")])
        assert everything_in(root) == {"a", "a/y"}
        shutil.rmtree(root / ".partial")
        destination.delete([Key("a/y")])
        assert root.is_dir()

    def test_a_folder_removed_by_others_is_made_again(
        self, destination: FolderDestination, root: Path
    ) -> None:
        put(destination, KEY)
        with destination.writer(Key("acme/widgets/two.bundle")) as writer:
            FolderDestination(root).delete([KEY])
            assert everything_in(root) == set()
            writer.commit()

        assert keys_of(destination) == ["acme/widgets/two.bundle"]

    def test_an_empty_folder_is_no_child(self, destination: FolderDestination, root: Path) -> None:
        put(destination, "a/x")
        (root / "empty" / "within").mkdir(parents=True)

        assert destination.children("") == ("a",)

    def test_a_folder_that_vanishes_while_listing_is_left_out(
        self, destination: FolderDestination, root: Path
    ) -> None:
        put(destination, "a/x", "b/x", "c", "d/x")

        listing = destination.list("")
        first = next(listing).key
        shutil.rmtree(root / "b")
        (root / "c").unlink()

        assert [first, *(found.key for found in listing)] == ["a/x", "d/x"]

    def test_a_listing_does_not_read_ahead(
        self, destination: FolderDestination, root: Path
    ) -> None:
        put(destination, "a/x", "b/x")

        listing = destination.list("")
        next(listing)
        put(destination, "b/y")

        assert [found.key for found in listing] == ["b/x", "b/y"]


class TestDurability:
    def test_content_then_name_then_folders_reach_the_disk(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(destination, "acme/before")
        steps: list[str] = []
        sync, link = os.fsync, os.link

        def watch_sync(descriptor: int) -> None:
            inode = os.fstat(descriptor).st_ino
            paths = [root, *root.rglob("*")]
            steps.extend(
                "content" if path.parent.name == ".partial" else f"sync {path.relative_to(root)}"
                for path in paths
                if path.stat().st_ino == inode
            )
            sync(descriptor)

        def watch_link(source: Path, target: Path) -> None:
            steps.append("name")
            link(source, target)

        monkeypatch.setattr(os, "fsync", watch_sync)
        monkeypatch.setattr(os, "link", watch_link)
        put(destination, "acme/new/folder/one")
        put(destination, "acme/new/folder/two")
        destination.delete([Key("acme/new/folder/one"), Key("acme/new/folder/two")])

        assert steps == [
            *("content", "sync acme", "sync acme/new", "name", "sync acme/new/folder"),
            *("content", "name", "sync acme/new/folder"),
            "sync acme",
        ]

    def test_a_folder_that_cannot_be_synced_takes_the_name_back(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(destination, "acme/widgets/before")
        sync = os.fsync

        def fail_when_named(descriptor: int) -> None:
            if (root / KEY).exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fail_when_named)
        with pytest.raises(IncompleteWrite, match="Input/output error"):
            destination.put_if_absent(KEY, b"content")

        assert keys_of(destination) == ["acme/widgets/before"]
        assert unfinished(root) == []

    def test_a_file_system_that_cannot_sync_folders_is_taken_as_it_is(
        self, destination: FolderDestination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = os.fsync

        def files_only(descriptor: int) -> None:
            if S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", files_only)
        put(destination, KEY)

        assert keys_of(destination) == [KEY]

    def test_a_link_that_the_server_made_and_then_refused_is_ours(
        self, destination: FolderDestination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link

        def link_twice(source: Path, target: Path) -> None:
            with suppress(FileExistsError):
                link(source, target)
            link(source, target)

        monkeypatch.setattr(os, "link", link_twice)
        with destination.writer(KEY) as writer:
            writer.write(b"content")
            writer.commit()
        with destination.writer(KEY) as second, pytest.raises(WriteConflict):
            second.commit()

        assert read(destination, KEY) == b"content"

    def test_a_file_system_without_links_and_locks_is_refused(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_hard_links(monkeypatch)
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOTSUP))

        with pytest.raises(DestinationError, match="neither hard links nor locks") as caught:
            destination.put_if_absent(KEY, b"content")

        assert caught.value.hint
        assert everything_in(root) == set()


class TestKilledProcesses:
    def test_what_a_killed_one_wrote_is_never_seen_and_cleared_by_the_next(
        self, destination: FolderDestination, root: Path
    ) -> None:
        with child_writing(root, KEY) as child:
            child.kill()
            child.wait()

        assert len(unfinished(root)) == 1
        assert keys_of(destination) == []
        with pytest.raises(ObjectNotFound):
            destination.stat(KEY)

        with destination.writer(KEY) as writer:
            assert len(unfinished(root)) == 1
            writer.write(b"by the next")
            writer.commit()
        assert unfinished(root) == []
        assert read(destination, KEY) == b"by the next"

    def test_what_a_living_one_writes_is_left_to_it(
        self, destination: FolderDestination, root: Path
    ) -> None:
        with child_writing(root, "by/child") as child:
            before = unfinished(root)
            put(destination, KEY)
            assert unfinished(root) == before != []

            child.communicate("commit\n", timeout=30)
            assert child.returncode == 0

        assert keys_of(destination) == [KEY, "by/child"]
        assert read(destination, "by/child") == b"written by a child"
        assert unfinished(root) == []

    def test_writers_of_this_process_are_left_alone_too(self, root: Path) -> None:
        with FolderDestination(root).writer(KEY) as writer:
            writer.write(b"content")
            put(FolderDestination(root), "other")
            writer.commit()

        assert keys_of(FolderDestination(root)) == [KEY, "other"]

    def test_a_file_cleared_between_its_making_and_its_lock_is_made_again(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock = fcntl.flock
        cleared: list[Path] = []

        def clear_first(descriptor: int, operation: int) -> None:
            if not cleared:
                cleared.extend(unfinished(root))
                cleared[0].unlink()
            lock(descriptor, operation)

        put(destination, "before")
        monkeypatch.setattr(fcntl, "flock", clear_first)
        put(destination, KEY)

        assert len(cleared) == 1
        assert read(destination, KEY) == b"content"

    def test_without_locks_left_overs_stay_and_writing_works(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / ".partial").mkdir(parents=True)
        (root / ".partial" / "unknown").write_bytes(b"somebody's")
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOTSUP))
        put(destination, KEY)

        assert read(destination, KEY) == b"content"
        assert [path.name for path in unfinished(root)] == ["unknown"]

    def test_what_one_left_that_was_killed_while_it_tried_is_cleared_by_the_next_that_tries(
        self, destination: FolderDestination, root: Path
    ) -> None:
        root.mkdir()
        abandoned, other_name, living = (root / f".probe-{uuid4().hex}" for _ in range(3))
        abandoned.touch()
        other_name.hardlink_to(abandoned)
        somebodys = root / ".probe-of-a-rocket"
        somebodys.touch()
        with living.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert destination.probe(KEY) == ""
            assert everything_in(root) == {living.name, somebodys.name}


class TestFullDisk:
    def test_an_object_that_does_not_fit_leaves_nothing_and_others_stay(
        self, small_disk: Path
    ) -> None:
        destination = FolderDestination(small_disk / "vault")
        put(destination, "fits", data=b"x" * 1000)

        with destination.writer(KEY) as writer:
            with pytest.raises(IncompleteWrite, match=r"one\.bundle could not be stored") as caught:
                writer.write(bytes(4 * MEBIBYTE))
            assert unfinished(small_disk / "vault") == []
            with pytest.raises(IncompleteWrite):
                writer.write(b"more")
            with pytest.raises(IncompleteWrite):
                writer.commit()

        assert caught.value.hint
        assert isinstance(caught.value.__cause__, OSError)
        assert everything_in(small_disk / "vault") == {"fits"}
        put(destination, "fits too", data=b"y" * 100_000)
        assert keys_of(destination) == ["fits", "fits too"]

    @pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_disk_found_full_at_the_commit_is_named_with_a_hint(
        self,
        destination: FolderDestination,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        reason: int,
    ) -> None:
        put(destination, "before")
        monkeypatch.setattr(os, "fsync", failing(reason))

        with pytest.raises(IncompleteWrite) as caught:
            destination.put_if_absent(KEY, b"content")

        assert caught.value.message.endswith(f"could not be stored: {os.strerror(reason)}")
        assert destination.uri(KEY) in caught.value.message
        assert caught.value.hint
        assert everything_in(root) == {"before"}
        assert unfinished(root) == []

    def test_a_disk_that_fills_up_with_folders_keeps_none_of_them(
        self, destination: FolderDestination, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(destination, "before")
        make = os.mkdir

        def make_two(path: Path, mode: int = 0o777) -> None:
            if (root / "acme" / "widgets").exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            make(path, mode)

        monkeypatch.setattr(os, "mkdir", make_two)
        with pytest.raises(IncompleteWrite, match="No space left"):
            destination.put_if_absent(Key("acme/widgets/third/x"), b"content")

        assert everything_in(root) == {"before"}

    def test_writes_that_the_system_cuts_are_continued(
        self, destination: FolderDestination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Sluggish(io.FileIO):
            def write(self, data: Any, /) -> int:
                return super().write(memoryview(data)[:1000])

        monkeypatch.setattr("backup.destinations.folder.destination.FileIO", Sluggish)
        content = pattern(10_001)
        with destination.writer(KEY) as writer:
            writer.write(content)
            writer.write(bytearray(content))
            assert writer.commit().size_bytes == 2 * len(content)

        assert read(destination, KEY) == content + content


class TestPermissions:
    def test_a_read_only_folder_is_access_denied_for_writers_alone(
        self, shared_folder: Path
    ) -> None:
        destination = FolderDestination(shared_folder / "vault")
        put(destination, KEY)
        for folder in (shared_folder / "vault").rglob("*"):
            folder.chmod(0o555)
        (shared_folder / "vault").chmod(0o555)

        with as_somebody():
            assert read(destination, KEY) == b"content"
            assert keys_of(destination) == [KEY]
            uses: list[Callable[[], object]] = [
                lambda: destination.writer(Key("other")),
                lambda: FolderDestination(shared_folder / "vault").writer(Key("other")),
                lambda: destination.delete([KEY]),
            ]
            for use in uses:
                with pytest.raises(AccessDenied, match="Permission denied") as caught:
                    use()
                assert isinstance(caught.value.__cause__, PermissionError)

        for folder in (shared_folder / "vault").rglob("*"):
            folder.chmod(0o755)
        (shared_folder / "vault").chmod(0o755)

    def test_a_folder_that_may_not_be_read_is_never_a_shorter_list(
        self, shared_folder: Path
    ) -> None:
        destination = FolderDestination(shared_folder)
        put(destination, "a/x", "b/x", "c/x")
        (shared_folder / "b").chmod(0o000)

        with as_somebody():
            listing = destination.list("")
            assert next(listing).key == "a/x"
            uses: list[Callable[[], object]] = [
                lambda: list(listing),
                lambda: keys_of(destination, "b/"),
                lambda: destination.children(""),
                lambda: destination.children("b/"),
                lambda: destination.stat(Key("b/x")),
                lambda: destination.open(Key("b/x")),
                lambda: destination.delete([Key("b/x")]),
            ]
            for use in uses:
                with pytest.raises(AccessDenied, match="Permission denied"):
                    use()

        (shared_folder / "b").chmod(0o755)

    def test_an_object_that_may_not_be_read_is_access_denied(self, shared_folder: Path) -> None:
        destination = FolderDestination(shared_folder)
        put(destination, KEY)
        (shared_folder / KEY).chmod(0o000)

        with as_somebody():
            assert keys_of(destination) == [KEY]
            with pytest.raises(AccessDenied, match=r"one\.bundle could not be read"):
                destination.open(KEY)

    def test_a_read_only_file_system_is_access_denied(
        self, destination: FolderDestination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "mkdir", failing(errno.EROFS))

        with pytest.raises(AccessDenied, match="Read-only file system"):
            destination.writer(KEY)


class TestLetterCase:
    @pytest.fixture(autouse=True)
    def blind_file_system(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the system find names below the root in whatever letter case they are asked."""
        list_folder = os.listdir

        def as_stored(path: Any) -> Any:
            if not str(path).startswith(f"{root}/"):
                return path
            found = root
            for segment in Path(path).relative_to(root).parts:
                names = list_folder(found) if found.is_dir() else []
                alike = [name for name in names if name.lower() == segment.lower()]
                found /= alike[0] if alike else segment
            return str(found)

        def make_blind(module: Any, name: str, *, paths: int) -> None:
            original = getattr(module, name)

            def blind(*words: Any, **options: Any) -> Any:
                if inside:
                    return original(*words, **options)
                inside.append(name)
                try:
                    found = [as_stored(word) for word in words[:paths]]
                finally:
                    inside.pop()
                return original(*found, *words[paths:], **options)

            monkeypatch.setattr(module, name, blind)

        inside: list[str] = []
        for name in ("lstat", "stat", "mkdir", "rmdir", "unlink", "scandir", "listdir"):
            make_blind(os, name, paths=1)
        make_blind(os, "link", paths=2)
        make_blind(io, "open", paths=1)

    @pytest.mark.parametrize("other", ["Acme/Widgets/x", "acme/widgets/X", "Acme/widgets/x"])
    def test_an_object_is_found_under_its_own_spelling_alone(
        self, destination: FolderDestination, root: Path, other: str
    ) -> None:
        put(destination, "acme/widgets/x", "123/4")
        assert (root / other).exists()

        for look in (destination.stat, destination.open):
            with pytest.raises(ObjectNotFound):
                look(Key(other))
        destination.delete([Key(other)])
        assert read(destination, "acme/widgets/x") == b"content"
        assert read(destination, "123/4") == b"content"
        assert keys_of(destination) == ["123/4", "acme/widgets/x"]

    def test_listings_are_of_the_folder_as_it_is_spelled(
        self, destination: FolderDestination
    ) -> None:
        put(destination, "acme/widgets/x")

        assert keys_of(destination, "acme/") == ["acme/widgets/x"]
        assert keys_of(destination, "Acme/") == []
        assert destination.children("acme/") == ("widgets",)
        assert destination.children("ACME/") == ()

    @pytest.mark.parametrize("other", ["Acme/widgets/x", "Acme/y", "acme/widgets/X"])
    def test_a_name_that_differs_in_letter_case_alone_is_refused(
        self, destination: FolderDestination, root: Path, other: str
    ) -> None:
        put(destination, "acme/widgets/x")

        with pytest.raises(DestinationError, match="letter case") as caught:
            destination.put_if_absent(Key(other), b"content")

        assert caught.type is DestinationError
        assert caught.value.hint
        assert keys_of(destination) == ["acme/widgets/x"]
        assert unfinished(root) == []

    def test_one_spelling_throughout_works_as_ever(self, destination: FolderDestination) -> None:
        put(destination, "Acme/Widgets/X", "Acme/Widgets/Y")

        with pytest.raises(WriteConflict):
            destination.put_if_absent(Key("Acme/Widgets/X"), b"other")
        assert keys_of(destination) == ["Acme/Widgets/X", "Acme/Widgets/Y"]
        destination.delete([Key("Acme/Widgets/X"), Key("Acme/Widgets/Y")])
        assert keys_of(destination) == []


def test_a_folder_whose_disk_went_away_takes_nothing_that_belongs_on_it(tmp_path: Path) -> None:
    place = tmp_path / "vault"
    place.mkdir()
    with disks.small_disk(tmp_path / "disk", 1 << 20) as disk:
        destination = FolderDestination(place)
        with disks.mounted_over(place, disk):
            destination.put_if_absent(Key("a/one"), b"1")
            begun = destination.writer(Key("a/two"))
            begun.write(b"2")
        with pytest.raises(DestinationError, match="another file system") as raised:
            destination.put_if_absent(Key("a/three"), b"3")
        assert "mount the disk" in raised.value.hint
        with pytest.raises(DestinationError, match="another file system"):
            begun.commit()
        assert [*place.iterdir()] == []
        # It was there all the time for the next one.
        with disks.mounted_over(place, disk):
            FolderDestination(place).put_if_absent(Key("a/two"), b"2")
            assert (place / "a/one").read_bytes() == b"1"


def test_what_an_earlier_try_published_is_success_for_the_same_bytes_alone(
    destination: FolderDestination,
) -> None:
    digest = hashlib.sha256(b"a bundle").hexdigest()
    for content in (b"a bundle", b"a bundle"):
        with destination.writer(Key("a/bundle")) as writer:
            writer.write(content)
            stored = writer.commit(sha256=digest)
        assert stored.size_bytes == len(content)
    with destination.writer(Key("a/bundle")) as writer:
        writer.write(b"another")
        with pytest.raises(WriteConflict):
            writer.commit(sha256=hashlib.sha256(b"another").hexdigest())
    with destination.open(Key("a/bundle")) as reader:
        assert reader.read() == b"a bundle"
