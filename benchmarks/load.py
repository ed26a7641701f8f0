"""Programs to compare with that are no programs of their own yet.

``sync``: what ``aws s3 sync FOLDER s3://BUCKET/PREFIX`` does to a prefix that holds nothing: one
listing of it, then every file is uploaded, ten at once, by the transfer library that the AWS CLI
is made of. ``download``: every ref of some repositories is fetched over HTTP, some repositories
at once, by repo-backup's own client, and what comes is thrown away; the bytes are printed.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

from backup.commands.remotes import Network, NetworkSettings, Remotes
from backup.model import Repository, Selection
from backup.stopping import Stop

# As the AWS CLI has it (max_concurrent_requests).
UPLOADS_AT_ONCE = 10


def sync(folder: Path, bucket: str, prefix: str) -> None:
    """Upload every file below a folder."""
    config = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=UPLOADS_AT_ONCE,
    )
    client = boto3.client("s3", config=config)
    client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")

    def upload(path: Path) -> None:
        client.upload_file(os.fspath(path), bucket, f"{prefix}/{path.relative_to(folder)}")

    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        for _ in pool.map(upload, files):
            pass


def download(concurrency: int, urls: Sequence[str]) -> int:
    """Fetch all that repo-backup would, and return how many bytes of packs that was."""
    stop = Stop()
    network = Network(NetworkSettings(), connections=concurrency, stop=stop)
    remotes = Remotes(network=network, selection=Selection(), count=lambda _: None, stop=stop)

    def fetch(url: str) -> int:
        repository = Repository(host="git", owner="", path=url, host_id=url, clone_url=url)
        with remotes.open(repository) as remote:
            refs = remote.list_refs()
            return 0 if refs.empty else sum(map(len, remote.fetch(refs.wanted(), ())))

    try:
        with ThreadPoolExecutor(concurrency) as pool:
            return sum(pool.map(fetch, urls))
    finally:
        network.close()


def main() -> None:
    """Do what the words say."""
    match sys.argv[1:]:
        case ["sync", folder, bucket, prefix]:
            sync(Path(folder), bucket, prefix)
        case ["download", concurrency, *urls]:
            print(download(int(concurrency), urls))
        case words:
            sys.exit(f"no such work: {words}")


if __name__ == "__main__":
    main()
