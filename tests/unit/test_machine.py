"""Which limit of this machine is used up, by what the system says and what git says."""

import errno
import os
import resource

import pytest

from backup.errors import BackupError, HostUnreachable, IncompleteWrite
from backup.machine import limit_in, limit_named, limit_reached


def of_number(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (of_number(errno.EMFILE), "open files"),
        (of_number(errno.ENFILE), "open files of the whole system"),
        (of_number(errno.ENOMEM), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "processes"),
    ],
)
def test_what_the_system_refuses_names_the_limit(error: Exception, limit: str) -> None:
    reached = limit_reached(error)
    assert reached is not None
    assert reached.message.startswith(f"a limit of this machine is used up: {limit}")
    assert "--concurrency" in reached.hint
    assert reached.retryable


def test_open_files_are_named_with_their_number() -> None:
    number = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"open files (ulimit -n {number}): it" in limit_named("open files", "it failed").message


def test_a_limit_is_found_behind_what_it_was_taken_for() -> None:
    error = HostUnreachable("git cannot be run")
    error.__cause__ = of_number(errno.EMFILE)
    reached = limit_reached(error)
    assert reached is not None
    assert reached.message.endswith(": git cannot be run")
    above = IncompleteWrite("not stored")
    above.__cause__ = reached
    assert limit_reached(above) is reached


@pytest.mark.parametrize(
    "error",
    [
        of_number(errno.ENOSPC),
        OSError("without a number"),
        TimeoutError("timed out"),
        RuntimeError("cannot schedule new futures after shutdown"),
        BackupError("Too many open files"),
    ],
)
def test_what_fails_for_another_reason_is_no_limit(error: Exception) -> None:
    assert limit_reached(error) is None


def test_a_socket_without_bytes_is_no_limit_and_a_program_that_cannot_start_is_one() -> None:
    error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    assert limit_reached(error) is None
    reached = limit_reached(error, starts_process=True)
    assert reached is not None
    assert "is used up: processes" in reached.message


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("fatal: Out of memory, malloc failed (tried to allocate 9 bytes)", "memory"),
        ("fatal: mmap failed: Cannot allocate memory", "memory"),
        ("libc.so.6: failed to map segment from shared object", "memory"),
        ("fatal: unable to create thread: Resource temporarily unavailable", "processes"),
        ("error: cannot fork() for pack-objects: Resource temporarily unavailable", "processes"),
        ("fatal: cannot create pipe: Too many open files", "open files"),
        ("fatal: x: Too many open files in system", "open files of the whole system"),
        ("fatal: pack is corrupted", ""),
        ("fatal: early EOF; remote: fatal: Out of memory, malloc failed", ""),
    ],
)
def test_words_of_git_name_a_limit_unless_a_server_said_them(words: str, limit: str) -> None:
    assert limit_in(words) == limit
