"""A Docker engine for tests, what the project's Dockerfile builds, and the runner that starts it.

The engine is the machine's own where there is one, as on GitHub's runners. Elsewhere Debian's is
installed and started. Where no registry gives the base image, a stand-in of the same shape is made:
Debian's minimal system, with a CPython below /usr/local.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.support.packages import PackagesMissing, require
from tests.support.runner import CHECKOUT, Runner

BASE = "python:3.13-slim"

_DEBIAN = "repo-backup-test-debian"
_START_SECONDS = 30
_STOP_SECONDS = 20
# What the base image has beside Debian's minimal system, and CPython needs.
_PACKAGES = (
    *("ca-certificates", "netbase", "tzdata", "libssl3t64", "libffi8", "libsqlite3-0"),
    *("libreadline8t64", "libbz2-1.0", "liblzma5", "zlib1g", "libncursesw6", "libuuid1"),
    *("libexpat1", "libzstd1"),
)
# The bundle of the machine that builds, so that apt-get and pip work below a proxy of its own.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class EngineFailed(AssertionError):
    """Docker refused; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The client and the engine that it speaks to.

    Attributes:
        socket: the engine's, on this machine.
    """

    client: Path
    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{self.socket}"}

    def __call__(self, *words: str, timeout_seconds: float = 600) -> str:
        """Run one command of the client and give its output.

        Raises:
            EngineFailed: it ended with another code than 0.
        """
        done = subprocess.run(
            [self.client, *words],
            env=self.environment | {"HOME": tempfile.gettempdir()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode:
            raise EngineFailed(f"docker {words[0]}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def holds(self, image: str) -> bool:
        try:
            self("image", "inspect", image)
        except EngineFailed:
            return False
        return True


@contextmanager
def docker_engine() -> Iterator[Docker]:
    """Give an engine that has the base image."""
    with tempfile.TemporaryDirectory(prefix="repo-backup-engine-") as folder:
        own = _own_engine()
        if own is not None:
            _get_base(own, Path(folder))
            yield own
            return
        with _started(Path(folder)) as docker:
            _get_base(docker, Path(folder))
            yield docker


def pinned_base() -> str:
    """Return the base image as the Dockerfile names it, with its digest."""
    first = (CHECKOUT / "Dockerfile").read_text("utf-8").partition("\nFROM ")[2]
    return first.split()[0]


def build(docker: Docker, name: str = "Dockerfile") -> str:
    """Build an image as the runner builds that of an action; give its name.

    Args:
        docker: the engine.
        name: of the Dockerfile.

    Raises:
        EngineFailed: with the build's log.
    """
    image = f"repo-backup-test:{name.lower()}"
    # The network is this machine's own: an engine of ours has no other.
    words = ("build", "--network", "host", "-t", image)
    if docker.holds(pinned_base()):
        docker(*words, "-f", str(CHECKOUT / name), str(CHECKOUT))
        return image
    with tempfile.NamedTemporaryFile("w", suffix=f"-{name}") as dockerfile:
        # The stand-in has the tag, and cannot have the digest.
        dockerfile.write((CHECKOUT / name).read_text("utf-8").replace(pinned_base(), BASE))
        dockerfile.flush()
        docker(*words, "-f", dockerfile.name, str(CHECKOUT))
    return image


def _own_engine() -> Docker | None:
    client, socket = shutil.which("docker"), Path("/var/run/docker.sock")
    if client is None or not socket.is_socket():
        return None
    docker = Docker(Path(client), socket)
    try:
        docker("info")
    except EngineFailed:
        return None
    return docker


@contextmanager
def _started(folder: Path) -> Iterator[Docker]:
    dockerd = require("dockerd", "docker.io")
    docker = Docker(require("docker", "docker.io"), folder / "docker.sock")
    argv = [str(dockerd), "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    argv += ["--host", f"unix://{docker.socket}", "--pidfile", str(folder / "dockerd.pid")]
    # Containers join this machine's own network; no rule of its firewall is touched.
    argv += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    argv += ["--ip-forward=false", "--ip-masq=false"]
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    log_file = folder / "dockerd.log"
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            argv,
            env={"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            if not _answers(docker, process):
                raise EngineFailed(log_file.read_text(errors="replace")[-2000:])
            yield docker
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)
            _unmount(folder)


def _answers(docker: Docker, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            docker("info")
        except EngineFailed:
            time.sleep(0.1)
        else:
            return True
    return False


def _unmount(folder: Path) -> None:
    """Let go of what the engine leaves mounted, so that its folder can be removed."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=True)


# --- The base image ----------------------------------------------------------------------------


def _get_base(docker: Docker, folder: Path) -> None:
    pinned = pinned_base()
    if docker.holds(pinned):
        docker("tag", pinned, BASE)
        return
    try:
        docker("pull", "--quiet", pinned)
        docker("tag", pinned, BASE)
    except EngineFailed:
        if not docker.holds(BASE):
            _make_base(docker, folder)


def _make_base(docker: Docker, folder: Path) -> None:
    require("mmdebstrap", "mmdebstrap")
    system = folder / "debian.tar"
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    argv += ['--aptopt=Acquire::Check-Valid-Until "false"', "trixie", str(system), _mirror()]
    subprocess.run(argv, check=True, capture_output=True)
    docker("import", str(system), _DEBIAN)
    system.unlink()
    context = folder / "base"
    context.mkdir()
    with tarfile.open(context / "python.tar", "w") as tar:
        _add_python(tar)
    shutil.copyfile(_CERTIFICATES, context / "certificates.crt")
    (context / "Dockerfile").write_text(
        f"FROM {_DEBIAN}\n"
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8\n"
        f"COPY certificates.crt {_CERTIFICATES}\n"
        "ADD python.tar /usr/local\n"
        "RUN ldconfig && python3 -m ensurepip --default-pip && ln -sf pip3 /usr/local/bin/pip\n"
        'CMD ["python3"]\n'
    )
    docker("build", "-t", BASE, str(context))
    shutil.rmtree(context)


def _mirror() -> str:
    """Take the mirror of Debian that this machine uses."""
    for place in Path("/etc/apt/sources.list.d").glob("*.sources"):
        for line in place.read_text().splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    raise PackagesMissing("this machine's apt names no mirror of Debian")


def _add_python(tar: tarfile.TarFile) -> None:
    """Add the CPython that the machine has of the base image's version, without its packages."""
    version = BASE.removeprefix("python:").removesuffix("-slim")
    # Where several are kept, they lie side by side.
    found = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*"))
    if not found:
        raise PackagesMissing(f"no registry gives {BASE}, and there is no CPython {version}")
    python = found[-1]

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        unwanted = {"__pycache__", "site-packages", "test", "lib2to3"}
        is_wrapper = parts[0] == "bin" and not parts[-1].startswith(f"python{version}")
        is_static = parts[-1].endswith(".a") or any(part.startswith("config-") for part in parts)
        if unwanted & set(parts) or is_static or (len(parts) > 1 and is_wrapper):
            return None
        return member

    for name in ("bin", "lib", "include"):
        tar.add(python / name, name, filter=chosen)
    for link, target in (("python3", f"python{version}"), ("python", "python3")):
        entry = tarfile.TarInfo(f"bin/{link}")
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        tar.addfile(entry)


# --- The runner --------------------------------------------------------------------------------


@dataclass
class ContainerRunner(Runner):
    """The runner with the built image, by the command line that it has itself.

    Only the network is another: the servers of the tests listen on this machine's loopback, where
    nothing else reaches them.
    """

    docker: Docker = field(kw_only=True)
    image: str = field(kw_only=True)

    def command(self, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Give the words of `DockerCommandManager.DockerRun`, in their order."""
        argv = [str(self.docker.client), "run", "--name", f"repobackup_{os.urandom(3).hex()}"]
        argv += ["--label", "repo-backup-test", "--workdir", "/github/workspace", "--rm"]
        for name in env:
            argv += ["-e", name]
        argv += ["-e", "GITHUB_ACTIONS=true", "-e", "CI=true"]
        argv += ["--entrypoint", self.entry_point, "--network", "host"]
        for source, target in self.mounts.items():
            argv += ["-v", f"{source}:{target}"]
        inside = {name: self._inside(text) for name, text in env.items()}
        return [*argv, self.image], self.docker.environment | inside

    @property
    def entry_point(self) -> str:
        runs = yaml.safe_load((CHECKOUT / "action.yml").read_text("utf-8"))["runs"]
        return str(runs["entrypoint"])

    @property
    def mounts(self) -> dict[Path, str]:
        return {
            self.docker.socket: "/var/run/docker.sock",
            self.home: "/github/home",
            self.workflow: "/github/workflow",
            self.file_commands: "/github/file_commands",
            self.workspace: "/github/workspace",
        }

    def _inside(self, text: str) -> str:
        for source, target in self.mounts.items():
            if text == str(source) or text.startswith(f"{source}/"):
                return target + text.removeprefix(str(source))
        return text
