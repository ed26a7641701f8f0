"""Stores that people really run, from Debian's packages: a Ceph RADOS gateway and OpenStack Swift.

Each is a handful of processes on loopback that keep everything in one folder, and end with it.
Root is needed, and some minutes the first time, for the packages.
"""

import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.packages import require
from tests.support.ports import free_port
from tests.support.s3server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.tls import Certificates

_START_SECONDS = 120
_STOP_SECONDS = 20


class StoreDidNotStart(AssertionError):
    """A store's process ended, or does not answer; the message has its log."""


@contextmanager
def ceph_gateway(folder: Path, tls: Certificates) -> Iterator[tuple[S3Server, S3Server]]:
    """Run a monitor, an OSD in memory and a gateway; reached by http, and by https."""
    packages = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
    for program in ("radosgw", "ceph-mon", "ceph-osd", "ceph", "monmaptool"):
        require(program, *packages)
    for name in ("mon", "osd", "run", "rgw"):
        (folder / name).mkdir(parents=True)
    monitor, plain, secure = free_port(), free_port(), free_port()
    cluster = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(
        _CEPH.format(
            cluster=cluster,
            folder=folder,
            monitor=monitor,
            frontends=f"endpoint=127.0.0.1:{plain} ssl_endpoint=127.0.0.1:{secure} "
            f"ssl_certificate={tls.server_file}",
        )
    )
    ceph = ("ceph", "-c", str(config))
    map_file = str(folder / "monmap")
    address = f"[v2:127.0.0.1:{monitor}]"
    _run("monmaptool", "--create", "--clobber", "--fsid", cluster, "--addv", "a", address, map_file)
    _run("ceph-mon", "--mkfs", "-i", "a", "-c", str(config), "--monmap", map_file)
    with ExitStack() as running:
        running.enter_context(process("mon", folder, "ceph-mon", "-f", "-i", "a", "-c", config))
        until(lambda: _succeeds(*ceph, "mon", "stat"), folder)
        osd = str(uuid.uuid4())
        _run(*ceph, "osd", "new", osd, "0")
        _run("ceph-osd", "--mkfs", "-i", "0", "-c", str(config), "--osd-uuid", osd)
        running.enter_context(process("osd", folder, "ceph-osd", "-f", "-i", "0", "-c", config))
        until(lambda: b'"num_up_osds":1' in _run(*ceph, "osd", "stat", "-f", "json"), folder)
        made = _run(
            *("radosgw-admin", "-c", str(config), "user", "create", "--uid=test"),
            *("--display-name=Test", f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}"),
        )
        if json.loads(made)["user_id"] != "test":
            raise StoreDidNotStart(made.decode())
        words = ("radosgw", "-f", "-n", "client.rgw.a", "-c", config)
        running.enter_context(process("rgw", folder, *words))
        until(lambda: listens(plain) and listens(secure), folder)
        yield (
            S3Server(f"http://127.0.0.1:{plain}"),
            S3Server(f"https://127.0.0.1:{secure}", ca_file=tls.ca_file),
        )


@contextmanager
def swift(folder: Path, tls: Certificates) -> Iterator[tuple[S3Server, S3Server]]:
    """Run Swift's four servers with its S3 API; by http, and by https through stunnel."""
    packages = ("swift-proxy", "swift-account", "swift-container", "swift-object", "memcached")
    kinds = ("account", "container", "object")
    for program in ("swift-proxy-server", *(f"swift-{kind}-server" for kind in kinds), "memcached"):
        require(program, *packages)
    stunnel = require("stunnel4", "stunnel4")
    (folder / "devices" / "d1").mkdir(parents=True)
    for name in ("cache", "lock"):
        (folder / name).mkdir()
    ports = {name: free_port() for name in (*kinds, "memcached", "proxy", "secure")}
    (folder / "swift.conf").write_text(_SWIFT)
    environment = {"SWIFT_CONF_DIR": str(folder)}
    for kind in kinds:
        file = folder / f"{kind}-server.conf"
        file.write_text(_SWIFT_SERVER.format(kind=kind, port=ports[kind], folder=folder))
        builder = str(folder / f"{kind}.builder")
        device = f"r1z1-127.0.0.1:{ports[kind]}/d1"
        _run("swift-ring-builder", builder, "create", "6", "1", "1")
        _run("swift-ring-builder", builder, "add", device, "1")
        _run("swift-ring-builder", builder, "rebalance")
    proxy = folder / "proxy-server.conf"
    proxy.write_text(
        _SWIFT_PROXY.format(
            port=ports["proxy"],
            memcached=ports["memcached"],
            folder=folder,
            pipeline="catch_errors gatekeeper healthcheck cache listing_formats bulk s3api "
            "tempauth copy slo dlo versioned_writes symlink proxy-server",
        )
    )
    front = folder / "stunnel.conf"
    front.write_text(
        _STUNNEL.format(secure=ports["secure"], plain=ports["proxy"], certificate=tls.server_file)
    )
    with ExitStack() as running:
        cache = ("memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-u", "root")
        running.enter_context(process("memcached", folder, *cache))
        for kind in kinds:
            server = (f"swift-{kind}-server", folder / f"{kind}-server.conf", "-v")
            running.enter_context(process(kind, folder, *server, environment=environment))
        front_door = ("swift-proxy-server", proxy, "-v")
        running.enter_context(process("proxy", folder, *front_door, environment=environment))
        running.enter_context(process("stunnel", folder, stunnel, front))
        until(lambda: all(map(listens, ports.values())), folder)
        keys = ("test:tester", "testing")
        yield (
            S3Server(f"http://127.0.0.1:{ports['proxy']}", *keys),
            S3Server(f"https://127.0.0.1:{ports['secure']}", *keys, ca_file=tls.ca_file),
        )


# --- Processes -----------------------------------------------------------------------------------


@contextmanager
def process(
    name: str,
    folder: Path,
    *argv: str | Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a program in the background, its words in a file beside it; end it at last."""
    log = folder / f"{name}.out"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            argv,
            env=_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment() -> dict[str, str]:
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    return {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


def _run(*argv: str) -> bytes:
    done = subprocess.run(argv, env=_environment(), capture_output=True, check=False, cwd="/")
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise StoreDidNotStart(f"{' '.join(argv)} failed:\n{said}")
    return done.stdout


def _succeeds(*argv: str) -> bool:
    try:
        _run(argv[0], "--connect-timeout=5", *argv[1:])
    except StoreDidNotStart:
        return False
    return True


def until(is_so: Callable[[], bool], folder: Path) -> None:
    """Wait for something to be so.

    Raises:
        StoreDidNotStart: with all that the programs said.
    """
    end = time.monotonic() + _START_SECONDS
    while not is_so():
        if time.monotonic() > end:
            logs = [f"{log}:\n{log.read_text(errors='replace')}" for log in folder.glob("*.out")]
            raise StoreDidNotStart("\n".join(logs))
        time.sleep(0.1)


def listens(port: int) -> bool:
    """Tell whether something on loopback takes connections at a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# --- Configuration -------------------------------------------------------------------------------

_CEPH = """
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/$name.log
pid file =
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
[client]
rgw frontends = beast {frontends}
rgw data = {folder}/rgw
rgw thread pool size = 64
rgw dynamic resharding = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey-1=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"""

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = before
swift_hash_path_suffix = after
[storage-policy:0]
name = gold
default = yes
[swift-constraints]
max_header_size = 16384
"""

_SWIFT_SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
workers = 1
log_level = WARNING
log_address = /nonexistent
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
fsync_on_close = no
recon_cache_path = {folder}/cache
recon_lock_path = {folder}/lock
"""

_SWIFT_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {folder}
workers = 1
log_level = WARNING
[pipeline:main]
pipeline = {pipeline}
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
check_bucket_owner = false
min_segment_size = 5242880
max_upload_part_num = 10000
dns_compliant_bucket_names = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:catch_errors]
use = egg:swift#catch_errors
"""

_STUNNEL = """
foreground = yes
pid =
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[s3]
accept = 127.0.0.1:{secure}
connect = 127.0.0.1:{plain}
cert = {certificate}
"""
