"""Requests to one bucket: each in a thread of its own, each failure one of our errors.

Whoever waits for a request waits on its thread alone. A signal or a deadline therefore ends the
wait in time, whatever the network does: requests that are under way then, and those that are made
to bring what is finished into safety, are given some seconds more.
"""

import base64
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillGoing
from datetime import UTC, datetime, timedelta
from threading import Lock, Thread
from typing import Any, TypeVar

from backup.destinations.s3.failures import translate
from backup.destinations.s3.settings import Connection, S3Settings, connect
from backup.errors import DestinationError, Interrupted
from backup.stopping import Stop
from backup.times import ServerClock

T = TypeVar("T")
Answer = dict[str, Any]

_LOOK_SECONDS = 0.25
# After a signal: for each request, and for all of them. A runner kills after ten seconds.
_LAST_REQUEST_SECONDS = 3.0
_LAST_SECONDS = 7.0


class Bucket:
    """A bucket and what is known of its store by now. Safe to use from many threads.

    Attributes:
        takes_conditions: whether the store understands ``If-None-Match``, as far as it said.
        wants_equal_parts: whether it refused parts of different sizes.
        deletes_many: whether it understands DeleteObjects.
        clock: the store's, by the answers so far.
    """

    def __init__(self, settings: S3Settings, *, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        self.takes_conditions = True
        self.wants_equal_parts = False
        self.deletes_many = True
        self.clock = ServerClock()
        self._lock = Lock()
        # Held while credentials are looked for, which may take long; never waited for elsewhere.
        self._connecting = Lock()
        self._connection: Connection | None = None
        self._interrupted_at: float | None = None

    def name(self, key: str) -> str:
        """Give an object's name in the bucket."""
        return f"{self.settings.prefix}/{key}" if self.settings.prefix else key

    def uri(self, key: str) -> str:
        """Give an object's name for people and other tools."""
        return f"s3://{self.settings.bucket}/{self.name(key)}"

    @property
    def is_aws(self) -> bool:
        """Whether AWS itself is at the other end."""
        return self.connection.is_aws

    def close(self) -> None:
        """End the connections."""
        if self._connection is not None:
            self._connection.client.close()
            self._connection = None

    # --- Requests ---

    def ask(self, operation: str, key: str, **parameters: object) -> Answer:
        """Make a request and wait for its answer.

        Args:
            operation: a method of boto3's client.
            key: what the failure is told of; whether it is sent too is up to the parameters.
            parameters: beside the bucket's name and owner.

        Raises:
            BackupError: see `translate`.
        """
        self.stop.check_with_grace()
        return self.wait(self.begin(operation, key, **parameters), key)

    def begin(self, operation: str, key: str, **parameters: object) -> "Future[Answer]":
        """Make a request without waiting. A body goes with what protects it on its way."""

        def request() -> Answer:
            client = self._connect().client
            owner = self.settings.expected_bucket_owner
            more: Answer = {"ExpectedBucketOwner": owner} if owner else {}
            if isinstance(body := parameters.get("Body"), (bytes, bytearray)):
                more |= self._integrity(body)
            bucket = self.settings.bucket
            answer: Answer = getattr(client, operation)(Bucket=bucket, **more, **parameters)
            self.clock.hear(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
            return answer

        return self.aside(request)

    def aside(self, do: Callable[[], T]) -> "Future[T]":
        """Do something in a thread that nobody has to wait for, not even the end of the program."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(do())
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                future.set_exception(error)

        Thread(target=work, daemon=True).start()
        return future

    def wait(self, future: "Future[T]", key: str, *, obey: bool = False) -> T:
        """Wait for what was begun; raise what it raised, as one of our errors.

        Args:
            future: what `begin` or `aside` gave.
            key: the object that a failure is told of.
            obey: end the wait at once when the run is to stop, or its time is up. Otherwise a
                signal ends it after some seconds, and a deadline as `Stop.check_with_grace` has it.

        Raises:
            Interrupted: a signal came.
            DeadlineReached: the time was up.
            BackupError: see `translate`.
        """
        waited_since = time.monotonic()
        while True:
            if not future.done():
                self.stop.check_with_grace()
            try:
                return future.result(_LOOK_SECONDS)
            except StillGoing as error:
                if future.done():
                    raise self._failure(error, key) from error
            except Exception as error:
                raise self._failure(error, key) from error
            if obey:
                self.stop.check()
            self._give_up_if_due(waited_since)

    def _failure(self, error: Exception, key: str) -> Exception:
        objects = f"arn:aws:s3:::{self.settings.bucket}/{self.name('*')}"
        return translate(error, self.uri(key), objects=objects) or error

    def _give_up_if_due(self, waited_since: float) -> None:
        if not self.stop.interrupted:
            return
        now = time.monotonic()
        with self._lock:
            since = self._interrupted_at = self._interrupted_at or now
        if now - max(since, waited_since) > _LAST_REQUEST_SECONDS or now - since > _LAST_SECONDS:
            raise Interrupted("interrupted")

    @property
    def connection(self) -> Connection:
        """The client, made at the first use; that may ask the bucket for its region.

        Raises:
            BackupError: there is none, as `wait` has it.
        """
        return self._connection or self.wait(self.aside(self._connect), "")

    def _connect(self) -> Connection:
        """Make the client where there is none. In a thread that nobody has to wait for."""
        with self._connecting:
            if self._connection is None:
                self._connection = connect(self.settings)
            return self._connection

    # --- What goes with an object ---

    def _integrity(self, data: bytes | bytearray) -> Answer:
        """Make the parameters by which the store finds out that bytes were changed on their way."""
        if self.is_aws:
            return {"ChecksumAlgorithm": "CRC32"}
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def keeping(self, *, is_bundle: bool) -> Answer:
        """Make the parameters that say how an object is kept."""
        settings = self.settings
        parameters: Answer = {}
        if is_bundle and settings.storage_class is not None:
            parameters["StorageClass"] = settings.storage_class
        if settings.encryption == "sse-s3":
            parameters["ServerSideEncryption"] = "AES256"
        elif settings.encryption == "sse-kms":
            parameters["ServerSideEncryption"] = "aws:kms"
            if settings.kms_key_id is not None:
                parameters["SSEKMSKeyId"] = settings.kms_key_id
        if settings.lock_mode is not None:
            parameters["ObjectLockMode"] = settings.lock_mode
            parameters["ObjectLockRetainUntilDate"] = self.lock_until()
        return parameters

    def lock_until(self) -> datetime:
        """Tell until when an object is locked that is locked now."""
        until = datetime.now(UTC) + timedelta(days=self.settings.lock_days)
        return until.replace(microsecond=0)

    def lock(self, key: str, *, version: str | None) -> datetime:
        """Lock an object that is there, in the mode and for the time that new ones are."""
        until = self.lock_until()
        # A body of XML, which S3 takes only with what protects it on its way; boto3 adds it.
        more = {} if version is None else {"VersionId": version}
        self.ask(
            "put_object_retention",
            key,
            Key=self.name(key),
            Retention={"Mode": self.settings.lock_mode, "RetainUntilDate": until},
            **more,
        )
        return until

    def require_encryption(self, answer: Answer, key: str) -> None:
        """Compare what was asked for with what the store says it did.

        Raises:
            DestinationError: it did something else.
        """
        asked = self.keeping(is_bundle=False)
        wanted, done = asked.get("ServerSideEncryption"), answer.get("ServerSideEncryption")
        if wanted is None:
            return
        if done != wanted:
            raise DestinationError(
                f"{self.uri(key)}: encryption {wanted} was asked for, and the store did "
                f"{done or 'none'}",
                hint="this store does not encrypt so; leave it to the bucket (--encryption bucket)",
            )
        key_id, used = asked.get("SSEKMSKeyId"), str(answer.get("SSEKMSKeyId", ""))
        # An alias is answered by the key that it stands for.
        if key_id and "alias/" not in key_id and used and not used.endswith(key_id):
            raise DestinationError(
                f"{self.uri(key)}: the KMS key {key_id} was asked for, and {used} was used"
            )


def version_of(answer: Answer) -> str | None:
    """Read an object's version; ``null`` is what a bucket without versions has."""
    version = answer.get("VersionId")
    return None if version in {None, "null"} else str(version)
