"""A child process can neither hang nor outlive us, and its words are kept.

The children here are the interpreter that runs the tests, or a shell.
"""

import os
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from backup.errors import DeadlineReached, HostUnreachable, Interrupted
from backup.git.child import Child
from backup.stopping import Stop

ENVIRONMENT = {"PATH": os.environ["PATH"]}
FOREVER = "import time; time.sleep(600)"
AT_ONCE = 0.0
LONG = 300.0
MEGABYTE = 1 << 20


def python(
    program: str,
    *,
    stop: Stop | None = None,
    patience_seconds: float = LONG,
    cwd: Path | None = None,
) -> Child:
    return Child(
        [sys.executable, "-S", "-E", "-c", program],
        environment=ENVIRONMENT,
        stop=stop or Stop(),
        patience_seconds=patience_seconds,
        cwd=cwd,
    )


def shell(program: str, *, stop: Stop | None = None, patience_seconds: float = LONG) -> Child:
    return Child(
        ["sh", "-c", program],
        environment=ENVIRONMENT,
        stop=stop or Stop(),
        patience_seconds=patience_seconds,
    )


def is_running(pid: int) -> bool:
    """Tell whether a process lives; one that nobody has waited for yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def has_ended(pid: int) -> bool:
    """Wait for a process that was killed; its end takes the kernel a moment."""
    end = time.monotonic() + 60
    while is_running(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# --- What is said and heard --------------------------------------------------------------------


def test_what_is_written_comes_back_with_the_status() -> None:
    with shell("cat; exit 7") as child:
        assert child.converse(b"hello") == (7, b"hello")


def test_the_environment_is_all_that_the_child_has() -> None:
    with Child(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"],
        environment={"ONLY": "this", "LC_ALL": "C"},
        stop=Stop(),
        patience_seconds=LONG,
    ) as child:
        _, output = child.converse(b"")
    assert output == b"['LC_ALL', 'ONLY']\n"


def test_it_runs_where_it_is_told(tmp_path: Path) -> None:
    with python("import os; print(os.getcwd())", cwd=tmp_path) as child:
        assert child.converse(b"")[1].decode().strip() == os.fspath(tmp_path.resolve())


def test_reading_gives_what_there_is_and_ends_with_nothing() -> None:
    with shell("echo hello") as child:
        assert child.read(100) == b"hello\n"
        assert child.read(100) == b""
        assert child.read(100) == b""
        assert child.wait() == 0


def test_a_large_stdin_and_a_large_stdout_at_once_do_not_block_each_other() -> None:
    data = bytes(range(256)) * (16 * MEGABYTE // 256)
    with shell("cat") as child:
        status, output = child.converse(data)
    assert (status, len(output)) == (0, len(data))
    assert output == data


def test_a_child_that_answers_before_it_listens_does_not_block() -> None:
    program = "import sys; sys.stdout.write('x' * 8_000_000); sys.stdin.read()"
    with python(program) as child:
        status, output = child.converse(b"y" * (8 * MEGABYTE))
    assert (status, len(output)) == (0, 8_000_000)


def test_a_child_that_ends_before_it_was_told_everything_gives_its_status() -> None:
    with shell("echo refused >&2; exit 3") as child:
        assert child.converse(b"y" * (8 * MEGABYTE)) == (3, b"")
        assert child.words() == "refused"


def test_writing_to_a_child_that_hung_up_says_so() -> None:
    with shell("exec <&-; echo no >&2; exit 1") as child:
        assert child.wait() == 1
        with pytest.raises(BrokenPipeError):
            child.write(b"y" * (4 * MEGABYTE))
        assert child.words() == "no"


def test_writing_after_stdin_was_closed_says_so() -> None:
    with shell("cat") as child:
        child.close_stdin()
        with pytest.raises(BrokenPipeError):
            child.write(b"x")
        assert child.wait() == 0


def test_a_signal_that_ended_the_child_is_its_status() -> None:
    with shell("kill -9 $$") as child:
        assert child.wait() == -signal.SIGKILL


def test_a_program_that_does_not_exist_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Child([tmp_path / "nothing"], environment=ENVIRONMENT, stop=Stop(), patience_seconds=LONG)


# --- Its words ---------------------------------------------------------------------------------


def test_words_are_one_line_without_bytes_that_are_no_text() -> None:
    with shell(r"printf 'one\n\n  two \377\r\nthree' >&2") as child:
        child.wait()
        assert child.words() == "one; two \\xff; three"


def test_only_the_end_of_many_words_is_kept_and_memory_is_bounded() -> None:
    program = (
        "import sys\n"
        "for _ in range(64): sys.stderr.write('noise\\n' * 100_000)\n"
        "sys.stderr.write('the last word\\n')\n"
        "print('done')"
    )
    tracemalloc.start()
    try:
        with python(program) as child:
            status, output = child.converse(b"")
            _, peak_bytes = tracemalloc.get_traced_memory()
            words = child.words()
    finally:
        tracemalloc.stop()
    assert (status, output) == (0, b"done\n")
    assert words.endswith("noise; the last word")
    assert len(words) < 20_000
    assert peak_bytes < 8 * MEGABYTE


def test_a_flood_of_words_does_not_block_a_child_that_is_written_to() -> None:
    program = (
        "import sys\nfor line in sys.stdin.buffer: sys.stderr.write('w' * 4096)\nprint('heard all')"
    )
    with python(program) as child:
        for _ in range(2000):
            child.write(b"line\n")
        status, output = child.converse(b"")
    assert (status, output) == (0, b"heard all\n")


def test_words_do_not_count_as_life() -> None:
    # A progress report that goes on for ever is no progress.
    stop = Stop()
    last_resort = threading.Timer(60, stop.interrupt)
    last_resort.start()
    chatter = "while :; do echo working >&2; sleep 0.1; done"
    with shell(chatter, stop=stop, patience_seconds=0.5) as child, pytest.raises(HostUnreachable):
        child.read(1)
    last_resort.cancel()


def test_an_endless_flood_of_words_can_be_stopped() -> None:
    stop = Stop()
    timer = threading.Timer(0.3, stop.interrupt)
    with shell("yes >&2", stop=stop) as child:
        timer.start()
        with pytest.raises(Interrupted):
            child.read(1)
    timer.join()


# --- Waiting -----------------------------------------------------------------------------------


def test_a_child_that_says_nothing_counts_as_stalled() -> None:
    with (
        python(FOREVER, patience_seconds=AT_ONCE) as child,
        pytest.raises(HostUnreachable, match="moved no byte") as caught,
    ):
        child.read(1)
    assert caught.value.retryable


def test_a_child_that_does_not_listen_counts_as_stalled() -> None:
    with (
        python(FOREVER, patience_seconds=AT_ONCE) as child,
        pytest.raises(HostUnreachable),
    ):
        child.write(b"x" * (4 * MEGABYTE))


def test_a_child_that_does_not_end_counts_as_stalled() -> None:
    program = "import os, time; os.close(1); time.sleep(600)"
    with (
        python(program, patience_seconds=AT_ONCE) as child,
        pytest.raises(HostUnreachable),
    ):
        child.converse(b"")


@pytest.mark.parametrize("waiting", ["read", "write", "converse", "wait"])
def test_a_stop_ends_every_kind_of_waiting(waiting: str) -> None:
    stop = Stop()
    stop.interrupt()
    with python(FOREVER, stop=stop) as child:
        calls = {
            "read": lambda: child.read(1),
            "write": lambda: child.write(b"x" * (4 * MEGABYTE)),
            "converse": lambda: child.converse(b""),
            "wait": child.wait,
        }
        with pytest.raises(Interrupted):
            calls[waiting]()


def test_a_stop_ends_a_conversation_that_never_pauses() -> None:
    stop = Stop()
    stop.interrupt()
    chatter = "i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); done"
    with shell(chatter, stop=stop) as child, pytest.raises(Interrupted):
        child.converse(b"")


def test_a_stop_that_comes_while_it_waits_is_seen() -> None:
    stop = Stop()
    timer = threading.Timer(0.2, stop.interrupt)
    with python(FOREVER, stop=stop) as child:
        timer.start()
        with pytest.raises(Interrupted):
            child.read(1)
    timer.join()


def test_the_deadline_ends_waiting_too() -> None:
    with (
        python(FOREVER, stop=Stop(deadline_seconds=0.0)) as child,
        pytest.raises(DeadlineReached),
    ):
        child.read(1)


# --- The end -----------------------------------------------------------------------------------


def test_leaving_the_block_ends_the_child_and_its_children() -> None:
    with shell("sleep 600 & echo $$ $!; wait") as child:
        pids = [int(word) for word in child.read(100).split()]
        assert all(map(is_running, pids))
    assert all(map(has_ended, pids))


def test_children_that_outlived_the_child_end_with_the_block() -> None:
    with shell("sleep 600 >/dev/null 2>&1 </dev/null & echo $!") as child:
        pid = int(child.read(100))
        assert child.wait() == 0
        assert is_running(pid)
    assert has_ended(pid)


def test_a_child_that_ignores_requests_to_end_is_ended_all_the_same() -> None:
    with shell("trap '' TERM INT HUP; echo $$; while :; do sleep 1; done") as child:
        pid = int(child.read(100))
    assert has_ended(pid)


def test_a_terminals_interrupt_does_not_reach_the_child_by_itself() -> None:
    with shell("echo $$; read line; echo still here") as child:
        pid = int(child.read(100))
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert child.converse(b"go\n") == (0, b"still here\n")


def test_killing_twice_is_no_error_and_leaves_no_open_pipe() -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    child = shell("sleep 600")
    child.kill()
    child.kill()
    assert child.words() == ""
    assert len([*Path("/proc/self/fd").iterdir()]) == before
