"""A real server of Git LFS (giftless) and git's own ``http-backend`` behind one TLS host: lighttpd.

Both ask for credentials, as a forge does. The server's packages come from a lock file of their own
into an environment of their own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.packages import PackagesMissing, require
from tests.support.ports import free_port
from tests.support.stores import listens, process, until
from tests.support.tls import Certificates

REQUIREMENTS = Path(__file__).parent.parent.parent / "requirements" / "lfs-server.txt"
USER, PASSWORD = "x-access-token", "s3cret-of-the-lfs-server"

_LIGHTTPD = """
server.modules = (
  "mod_openssl", "mod_auth", "mod_authn_file", "mod_setenv", "mod_alias", "mod_cgi", "mod_proxy"
)
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
# git-lfs 3.3 panics where an upload over HTTP/2 has to be sent a second time.
server.feature-flags = ("server.h2proto" => "disable")
server.max-request-size = 0
server.stream-request-body = 1
server.stream-response-body = 1
ssl.engine = "enable"
ssl.pemfile = "{pem}"
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/users"
# Links to files say that they need nothing besides.
$HTTP["url"] !~ "/info/lfs/objects/storage/" {{
  auth.require = ("" => ("method" => "basic", "realm" => "git", "require" => "valid-user"))
}}
$HTTP["url"] =~ "^/[^/]+/[^/]+\\.git/info/lfs" {{
  proxy.server = ("" => (("host" => "127.0.0.1", "port" => {lfs_port})))
}} else $HTTP["url"] =~ "^/[^/]+/[^/]+\\.git/" {{
  alias.url = ("/" => "{backend}/")
  cgi.assign = ("" => "")
  setenv.add-environment = (
    "GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "PATH" => "/usr/bin:/bin",
    "GIT_CONFIG_COUNT" => "1", "GIT_CONFIG_KEY_0" => "safe.directory", "GIT_CONFIG_VALUE_0" => "*"
  )
}}
"""

# Who comes has shown who he is at the front.
_GIFTLESS = """
AUTH_PROVIDERS: ["giftless.auth.allow_anon:read_write"]
LEGACY_ENDPOINTS: false
TRANSFER_ADAPTERS:
  basic:
    factory: giftless.transfer.basic_streaming:factory
    options:
      storage_class: giftless.storage.local_storage:LocalStorage
      storage_options: {{path: "{folder}/files"}}
"""


@dataclass(frozen=True, slots=True)
class LfsHost:
    """The running host.

    Attributes:
        root: repositories lie below it, ``<root>/acme/media.git``.
        files: where the LFS server keeps its files, by owner and repository.
        git_lfs: the program.
    """

    url: str
    root: Path
    files: Path
    git_lfs: Path
    ca_file: Path

    def git_environment(self, home: Path) -> Mapping[str, str]:
        """Give git with git-lfs, and the credentials for this host, in a home of its own."""
        home.mkdir(exist_ok=True)
        (home / ".git-credentials").write_text(self.url.replace("://", f"://{USER}:{PASSWORD}@"))
        (home / ".gitconfig").write_text(
            "[user]\n name = Test\n email = test@example.org\n"
            "[init]\n defaultBranch = main\n"
            "[credential]\n helper = store\n"
            '[filter "lfs"]\n clean = git-lfs clean -- %f\n smudge = git-lfs smudge -- %f\n'
            " process = git-lfs filter-process\n required = true\n"
            # git-lfs asks whether files can be locked, which this server does not know.
            f'[lfs "{self.url}"]\n locksverify = false\n'
        )
        return {
            "PATH": f"{self.git_lfs.parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_SSL_CAINFO": str(self.ca_file),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
        }


@contextmanager
def lfs_host(folder: Path, tls: Certificates) -> Iterator[LfsHost]:
    """Run the host in a folder.

    Raises:
        PackagesMissing: a program is missing and cannot be installed.
    """
    lighttpd = require("lighttpd", "lighttpd", "lighttpd-mod-openssl")
    git_lfs = require("git-lfs", "git-lfs")
    python = _environment_of(folder / "venv")
    ports = {"port": free_port(), "lfs_port": free_port()}
    root = folder / "repositories"
    for each in (root, folder / "files"):
        each.mkdir()
    exec_path = subprocess.check_output(["git", "--exec-path"], encoding="utf-8").strip()
    backend = Path(exec_path) / "git-http-backend"
    (folder / "users").write_text(f"{USER}:{PASSWORD}\n")
    (folder / "lighttpd.conf").write_text(
        _LIGHTTPD.format(folder=folder, root=root, pem=tls.server_file, backend=backend, **ports)
    )
    (folder / "giftless.yaml").write_text(_GIFTLESS.format(folder=folder))
    words = ("--url-scheme=https", "--host=127.0.0.1", f"--port={ports['lfs_port']}")
    serve: list[str | Path] = [
        python.parent / "waitress-serve",
        *words,
        "giftless.wsgi_entrypoint:app",
    ]
    settings = {"GIFTLESS_CONFIG_FILE": str(folder / "giftless.yaml")}
    with (
        process("giftless", folder, *serve, environment=settings),
        process("lighttpd", folder, lighttpd, "-D", "-f", folder / "lighttpd.conf"),
    ):
        until(lambda: all(map(listens, ports.values())), folder)
        url = f"https://localhost:{ports['port']}"
        yield LfsHost(url, root, folder / "files", git_lfs, tls.ca_file)


def _environment_of(folder: Path) -> Path:
    python = folder / "bin" / "python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--require-hashes"]
    venv: list[str | Path] = [sys.executable, "-m", "venv", folder]
    for argv in (venv, [*install, "--disable-pip-version-check", "--requirement", REQUIREMENTS]):
        # What pip asks about the machine leaves traces in HOME.
        environment = os.environ | {"HOME": str(folder)}
        done = subprocess.run(
            argv, env=environment, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise PackagesMissing(f"the LFS server cannot be installed:\n{done.stderr}")
    return python
