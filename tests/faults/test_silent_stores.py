"""A store that falls silent holds no run beyond its deadline, but for what is written last."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from backup.commands.run import RunOptions, run
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import BackupError, ExitCode
from backup.model import RunReport
from backup.sources.plain import FolderSource
from backup.stopping import FINISHING_SECONDS, GRACE_SECONDS, Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.s3server import S3Server, moto_server
from tests.support.vaults import Silence

BUCKET = "vault"


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Scene:
    """One repository in a folder, a bucket, and a deadline whose clock stands still."""

    root: Path
    store: S3Server
    clock: Clock

    def run(self, fault: ProxyFault, *, then: tuple[float, ...]) -> tuple[RunReport, int]:
        """Back up through a store that falls silent, and let the clock jump when it has.

        Args:
            fault: makes it silent.
            then: what the clock says when it was struck once, twice, and so on.

        Returns:
            What the run says, and the number of requests.
        """
        stop = Stop(deadline_seconds=1000, monotonic=self.clock)
        with FaultProxy(self.store.endpoint_url, fault) as proxy:
            settings = S3Settings(bucket=BUCKET, prefix="git", endpoint_url=proxy.url)

            def pass_time() -> None:
                proxy.wait_until_struck(fault)
                for seconds in then:
                    self.clock.seconds = seconds

            Thread(target=pass_time, daemon=True).start()
            destination = S3Destination(settings, stop=stop)
            try:
                report = run(
                    [FolderSource(self.root, owner="acme")],
                    destination,
                    RunOptions(),
                    events=Silence(),
                    stop=stop,
                )
            finally:
                destination.close()
        return report, len(proxy.requests)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    path = init_bare(tmp_path / "src" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    set_head(path, b"refs/heads/main")
    with moto_server(tmp_path / "moto") as store:
        store.make_bucket(BUCKET)
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield Scene(tmp_path / "src", store, Clock())


LATE = 1000 + GRACE_SECONDS + 1
# Each answer would be waited for for a minute, eight times.
SILENT: dict[str, ProxyFault] = {
    "the vault's documents": ProxyFault(action="stall", method="GET", target="prefix=", times=None),
    "the try to write": ProxyFault(action="stall", method="POST", target="uploads", times=None),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_store_that_is_silent_from_the_beginning_ends_the_run_at_its_deadline(
    name: str, scene: Scene
) -> None:
    with pytest.raises(BackupError, match="nothing was published") as caught:
        scene.run(SILENT[name], then=(LATE,))
    assert caught.value.exit_code == ExitCode.FAILED


def test_a_store_that_falls_silent_at_the_manifest_ends_the_run_when_that_time_is_up(
    scene: Scene,
) -> None:
    fault = ProxyFault(action="delay", method="PUT", target="/snapshots/", seconds=3600)
    with pytest.raises(BackupError, match="could not be recorded within 300 seconds") as caught:
        scene.run(fault, then=(LATE, 1000 + FINISHING_SECONDS + 1))
    assert caught.value.exit_code == ExitCode.FAILED


def test_a_manifest_is_written_though_its_store_was_slow_and_the_deadline_has_passed(
    scene: Scene,
) -> None:
    # The first try is lost, and the client of the store makes another one.
    fault = ProxyFault(action="hang up", method="PUT", target="/snapshots/", times=1)
    report, _ = scene.run(fault, then=(LATE,))
    assert (report.result, report.exit_code) == ("success", ExitCode.DONE)
    assert len(report.manifests) == 1
