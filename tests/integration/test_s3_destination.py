"""What is asked of a real S3 server, and what is done when it fails, refuses or forgets."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from backup.destinations.s3 import S3Destination, S3Settings, settings, upload
from backup.errors import (
    AccessDenied,
    BackupError,
    ConfigError,
    DeadlineReached,
    DestinationError,
    DestinationUnreachable,
    IncompleteWrite,
    Interrupted,
    WriteConflict,
)
from backup.model import Key
from backup.stopping import Stop
from tests.contract.destination_contract import keys_of, pattern, read
from tests.support.proxy import FaultProxy, ProxyFault, Seen
from tests.support.s3server import S3Server
from tests.support.tls import Certificates

KEY = Key("acme/repositories/widgets/1/one.full.bundle")
MEBIBYTE = 1 << 20
LARGE = pattern(20 * MEBIBYTE)
XML = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"


def refusal(status: int, code: str, **rest: Any) -> ProxyFault:
    return ProxyFault(
        action="refuse",
        status=status,
        headers=(("Content-Type", "application/xml"),),
        body=XML.format(code, "on purpose").encode(),
        **rest,
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def bucket(moto_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    name = f"b-{uuid4().hex}"
    moto_http.make_bucket(name)
    return name


@contextmanager
def opened(url: str, bucket: str, stop: Stop | None = None, **more: Any) -> Iterator[S3Destination]:
    asked = S3Settings(bucket=bucket, prefix="p", endpoint_url=url, **more)
    destination = S3Destination(asked, stop=stop or Stop())
    try:
        yield destination
    finally:
        destination.close()


@contextmanager
def watched(
    server: S3Server, bucket: str, *faults: ProxyFault, **more: Any
) -> Iterator[tuple[S3Destination, FaultProxy]]:
    with (
        FaultProxy(server.endpoint_url, *faults, upstream_ca=server.ca_file) as proxy,
        opened(proxy.url, bucket, **more) as destination,
    ):
        yield destination, proxy


def write(
    destination: S3Destination, data: bytes = LARGE, *, key: Key = KEY, known: bool = True
) -> Any:
    with destination.writer(key) as writer:
        writer.write(data)
        return writer.commit(sha256=sha256(data) if known else None)


def of(requests: list[Seen], method: str, words: str = "") -> list[Seen]:
    return [one for one in requests if one.method == method and words in one.target]


def uploads(server: S3Server, bucket: str) -> int:
    with server.client() as client:
        return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


# --- What goes with the requests -----------------------------------------------------------------


def test_other_stores_get_a_content_md5_with_every_put_and_part(
    moto_http: S3Server, bucket: str
) -> None:
    with watched(moto_http, bucket) as (destination, proxy):
        write(destination)
        destination.put_if_absent(Key("small"), b"small")
    puts = of(proxy.requests, "PUT")
    assert len(puts) == 4
    for put in puts:
        assert put.headers["content-md5"]
        assert "x-amz-sdk-checksum-algorithm" not in put.headers
        assert not [name for name in put.headers if name.startswith("x-amz-checksum-")]
        assert put.headers["authorization"].startswith("AWS4-HMAC-SHA256")


def test_aws_gets_checksums_and_no_questions_before_a_write(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "is_aws", lambda url: True)
    with watched(moto_http, bucket, region="us-east-1") as (destination, proxy):
        write(destination)
        destination.put_if_absent(Key("small"), b"small")
    puts = of(proxy.requests, "PUT")
    assert len(puts) == 4
    for put in puts:
        assert put.headers["x-amz-sdk-checksum-algorithm"] == "CRC32"
    assert of(proxy.requests, "HEAD") == []
    creating = [*of(proxy.requests, "PUT", "/small"), *of(proxy.requests, "POST", "uploadId")]
    assert [one.headers["if-none-match"] for one in creating] == ["*", "*"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.amazonaws.com", True),
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", True),
        ("https://amazonaws.com.example.org", False),
        ("https://notamazonaws.com", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_aws_is_known_by_its_name(url: str, expected: bool) -> None:
    assert settings.is_aws(url) is expected


def test_the_region_is_asked_from_the_bucket(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "is_aws", lambda url: True)
    name = f"b-{uuid4().hex}"
    with moto_http.client() as client:
        client.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
    with watched(moto_http, name) as (destination, proxy):
        destination.put_if_absent(KEY, b"x")
    (put,) = of(proxy.requests, "PUT")
    assert "/eu-central-1/s3/" in put.headers["authorization"]
    with watched(moto_http, name, region="eu-west-3") as (destination, proxy):
        destination.put_if_absent(KEY, b"x")
    assert "/eu-west-3/s3/" in of(proxy.requests, "PUT")[0].headers["authorization"]
    assert of(proxy.requests, "HEAD") == []


def test_bundles_alone_go_to_the_storage_class(moto_http: S3Server, bucket: str) -> None:
    with opened(moto_http.endpoint_url, bucket, storage_class="GLACIER_IR") as destination:
        write(destination)
        write(destination, b"small", key=Key("small.bundle"))
        destination.put_if_absent(Key("record"), b"{}")
    with moto_http.client() as client:
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert {item["Key"].split("/")[-1]: item["StorageClass"] for item in listed} == {
        "one.full.bundle": "GLACIER_IR",
        "small.bundle": "GLACIER_IR",
        "record": "STANDARD",
    }


def test_the_bucket_s_owner_goes_with_every_request(moto_http: S3Server, bucket: str) -> None:
    with watched(moto_http, bucket, expected_bucket_owner="123456789012") as (destination, proxy):
        write(destination)
        destination.put_if_absent(Key("small"), b"small")
        read(destination, KEY)
        destination.stat(KEY)
        list(destination.list(""))
        destination.delete([KEY])
    owners = {one.headers.get("x-amz-expected-bucket-owner") for one in proxy.requests}
    assert owners == {"123456789012"}


@pytest.mark.parametrize(
    ("more", "algorithm"),
    [
        ({"encryption": "sse-s3"}, "AES256"),
        (
            {"encryption": "sse-kms", "kms_key_id": "1234abcd-12ab-34cd-56ef-1234567890ab"},
            "aws:kms",
        ),
        ({"encryption": "sse-kms"}, "aws:kms"),
    ],
)
def test_encryption_is_asked_for(
    more: dict[str, Any], algorithm: str, moto_http: S3Server, bucket: str
) -> None:
    with opened(moto_http.endpoint_url, bucket, **more) as destination:
        write(destination)
        destination.put_if_absent(Key("small"), b"small")
    with moto_http.client() as client:
        for name in (KEY, "small"):
            answer = client.head_object(Bucket=bucket, Key=f"p/{name}")
            assert answer["ServerSideEncryption"] == algorithm


@pytest.mark.parametrize("size", [100, 20 * MEBIBYTE])
def test_encryption_that_the_store_did_not_do_is_an_error(
    size: int, moto_http: S3Server, bucket: str
) -> None:
    # An answer that says nothing of encryption is what a store gives that ignores the wish.
    body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
    silent = [
        ProxyFault(action="refuse", status=200, method="POST", target="uploads", body=body),
        ProxyFault(action="refuse", status=200, method="PUT", headers=(("ETag", '"1"'),)),
    ]
    fault = silent[0] if size > MEBIBYTE else silent[1]
    with (
        watched(moto_http, bucket, fault, encryption="sse-kms") as (destination, _),
        pytest.raises(DestinationError, match=r"aws:kms was asked for.*none") as caught,
    ):
        write(destination, LARGE[:size])
    assert not caught.value.retryable


def test_versions_are_told(moto_http: S3Server, bucket: str) -> None:
    with opened(moto_http.endpoint_url, bucket) as destination:
        assert write(destination).version_id is None
    name = f"b-{uuid4().hex}"
    moto_http.make_bucket(name, versioned=True)
    with opened(moto_http.endpoint_url, name) as destination:
        stored = [write(destination), destination.put_if_absent(Key("small"), b"small")]
        assert [destination.stat(one.key).version_id for one in stored] == [
            one.version_id for one in stored
        ]
        assert all(one.version_id for one in stored)
        # Equal content that is there already has the version of what is there.
        again = destination.put_if_absent(Key("small"), b"small")
        assert again.version_id == stored[1].version_id


# --- Lost answers --------------------------------------------------------------------------------

LOST = {
    "the answer to the end is lost": ProxyFault(action="lose", method="POST", target="uploadId"),
    "the end is asked for twice": ProxyFault(action="twice", method="POST", target="uploadId"),
    "the answer to a part is lost": ProxyFault(action="lose", method="PUT", target="partNumber=2"),
    "the answer to the beginning is lost": ProxyFault(
        action="lose", method="POST", target="uploads"
    ),
}


@pytest.mark.parametrize("as_aws", [False, True], ids=["other store", "as AWS"])
@pytest.mark.parametrize("name", LOST)
def test_a_lost_answer_within_an_upload_is_found_out(
    name: str, as_aws: bool, rclone_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "is_aws", lambda url: as_aws)
    for variable, value in rclone_http.environment().items():
        monkeypatch.setenv(variable, value)
    bucket = f"b-{uuid4().hex}"
    rclone_http.make_bucket(bucket)
    fault = LOST[name]
    with watched(rclone_http, bucket, fault, region="us-east-1") as (destination, _):
        assert write(destination).size_bytes == len(LARGE)
        assert read(destination, KEY) == LARGE


@pytest.mark.parametrize("as_aws", [False, True], ids=["other store", "as AWS"])
@pytest.mark.parametrize("action", ["lose", "twice"])
def test_a_lost_answer_to_a_small_write_is_found_out(
    action: Any, as_aws: bool, moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "is_aws", lambda url: as_aws)
    fault = ProxyFault(action=action, method="PUT", times=2, exact=True)
    with watched(moto_http, bucket, fault, region="us-east-1") as (destination, _):
        assert destination.put_if_absent(Key("small"), b"small").size_bytes == 5
        assert write(destination, b"tiny").size_bytes == 4
        assert read(destination, "small") == b"small"


def test_an_object_of_another_is_no_lost_answer(moto_http: S3Server, bucket: str) -> None:
    with opened(moto_http.endpoint_url, bucket) as destination:
        write(destination, b"theirs")
        for data in (b"ours", LARGE):
            with pytest.raises(WriteConflict):
                write(destination, data)
        assert write(destination, b"theirs").size_bytes == 6
        assert read(destination, KEY) == b"theirs"


def test_who_knows_no_sha256_cannot_claim_what_is_there(moto_http: S3Server, bucket: str) -> None:
    fault = ProxyFault(action="lose", method="PUT")
    with (
        watched(moto_http, bucket, fault) as (destination, _),
        pytest.raises(WriteConflict),
    ):
        write(destination, b"content", known=False)


# --- Stores that cannot do all of it --------------------------------------------------------------


def test_a_store_that_refuses_conditions_is_asked_without_from_then_on(
    moto_http: S3Server, bucket: str
) -> None:
    fault = refusal(501, "NotImplemented", method="PUT")
    with watched(moto_http, bucket, fault) as (destination, proxy):
        for number in range(3):
            destination.put_if_absent(Key(f"small-{number}"), b"small")
        write(destination)
        with pytest.raises(WriteConflict):
            destination.put_if_absent(Key("small-1"), b"other")
    asked = [*of(proxy.requests, "PUT", "small"), *of(proxy.requests, "POST", "uploadId")]
    assert ["if-none-match" in one.headers for one in asked] == [True, False, False, False, False]


def test_a_store_that_wants_equal_parts_gets_them_on_the_next_try(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "FIRST_PART_BYTES", 5 * MEBIBYTE)
    monkeypatch.setattr(upload, "EQUAL_PART_BYTES", 6 * MEBIBYTE)
    monkeypatch.setattr(upload, "_PARTS_OF_A_SIZE", 1)
    fault = refusal(400, "InvalidPart", method="POST", target="uploadId")
    with watched(moto_http, bucket, fault) as (destination, proxy):
        with pytest.raises(IncompleteWrite, match="parts of equal size") as caught:
            write(destination)
        assert caught.value.retryable
        assert read(destination, write(destination).key) == LARGE
    sizes = [one.request_bytes // MEBIBYTE for one in of(proxy.requests, "PUT", "partNumber")]
    assert sorted(sizes[:3]) == [5, 5, 10]
    assert sorted(sizes[3:]) == [2, 6, 6, 6]
    assert uploads(moto_http, bucket) == 0


def test_a_store_that_cannot_delete_many_deletes_one_by_one(
    moto_http: S3Server, bucket: str
) -> None:
    fault = refusal(501, "NotImplemented", method="POST", target="delete")
    with watched(moto_http, bucket, fault) as (destination, proxy):
        keys = [Key(f"k/{number}") for number in range(5)]
        for key in keys:
            destination.put_if_absent(key, b"x")
        destination.delete(keys[:3])
        destination.delete(keys[3:4])
        assert keys_of(destination) == [keys[4]]
    assert len(of(proxy.requests, "POST", "delete")) == 1
    assert len(of(proxy.requests, "DELETE")) == 4


@pytest.mark.parametrize("told", ["", "<Deleted><Key>p/k/1</Key></Deleted>"])
def test_what_a_store_does_not_say_it_has_deleted_is_deleted_one_by_one(
    moto_http: S3Server, bucket: str, told: str
) -> None:
    body = f"<DeleteResult>{told}</DeleteResult>"
    fault = ProxyFault(
        action="refuse", status=200, method="POST", target="delete", body=body.encode()
    )
    keys = [Key(f"k/{number}") for number in range(3)]
    with watched(moto_http, bucket, fault) as (destination, proxy):
        for key in keys:
            destination.put_if_absent(key, b"x")
        destination.delete(keys)
        assert keys_of(destination) == ([keys[1]] if told else [])
    assert len(of(proxy.requests, "DELETE")) == (2 if told else 3)


def test_an_object_that_may_not_be_deleted_is_named(moto_http: S3Server, bucket: str) -> None:
    body = (
        "<DeleteResult><Error><Key>p/k/1</Key><Code>AccessDenied</Code>"
        "<Message>locked</Message></Error></DeleteResult>"
    )
    fault = ProxyFault(
        action="refuse", status=200, method="POST", target="delete", body=body.encode()
    )
    with (
        watched(moto_http, bucket, fault) as (destination, _),
        pytest.raises(AccessDenied, match=r"p/k/1 could not be deleted.*locked"),
    ):
        destination.delete([Key("k/1"), Key("k/2")])


# --- Reading and listing -------------------------------------------------------------------------


def test_a_read_goes_on_where_the_connection_broke(moto_http: S3Server, bucket: str) -> None:
    cut = ProxyFault(action="cut", method="GET", byte=3 * MEBIBYTE, times=3, exact=True)
    with watched(moto_http, bucket, cut) as (destination, proxy):
        write(destination)
        assert read(destination, KEY) == LARGE
        gets = of(proxy.requests, "GET")
    assert [one.headers.get("range") for one in gets] == [
        None,
        *(f"bytes={number * 3 * MEBIBYTE}-" for number in (1, 2, 3)),
    ]
    assert all(one.headers.get("if-match") for one in gets[1:])


def test_an_object_that_changes_while_it_is_read_is_an_error(
    moto_http: S3Server, bucket: str
) -> None:
    cut = ProxyFault(action="cut", method="GET", byte=3 * MEBIBYTE)
    with watched(moto_http, bucket, cut) as (destination, _):
        write(destination)
        reader = destination.open(KEY)
        assert reader.read(MEBIBYTE) == LARGE[:MEBIBYTE]
        with moto_http.client() as client:
            client.put_object(Bucket=bucket, Key=f"p/{KEY}", Body=LARGE[::-1])
        with pytest.raises(DestinationError, match="changed while it was read"):
            reader.read()
        reader.close()


def test_a_read_that_breaks_again_and_again_is_given_up(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.destinations.s3.reading._FIRST_PAUSE_SECONDS", 0.01)
    cut = ProxyFault(action="cut", method="GET", byte=0, times=None)
    with watched(moto_http, bucket, cut) as (destination, _):
        write(destination)
        with pytest.raises(DestinationUnreachable):
            read(destination, KEY)


def test_a_listing_of_many_pages_is_whole(moto_http: S3Server, bucket: str) -> None:
    with watched(moto_http, bucket) as (destination, proxy):
        names = [f"k/{number:04}" for number in range(1005)]
        with moto_http.client() as client:
            for name in names:
                client.put_object(Bucket=bucket, Key=f"p/{name}", Body=b"")
            # Neither of these is ours.
            client.put_object(Bucket=bucket, Key="p/k/a folder/", Body=b"")
            client.put_object(Bucket=bucket, Key="other/k/1", Body=b"")
        assert keys_of(destination, "k/") == names
        assert destination.children("") == ("k",)
    pages = of(proxy.requests, "GET", "list-type=2")
    assert len(pages) == 2 + 1


LISTING = "<ListBucketResult><IsTruncated>{}</IsTruncated>{}</ListBucketResult>"
BROKEN = {
    "out of order": LISTING.format(
        "false",
        "<Contents><Key>p/b</Key><Size>1</Size></Contents>"
        "<Contents><Key>p/a</Key><Size>1</Size></Contents>",
    ),
    "breaks off": LISTING.format("true", "<Contents><Key>p/a</Key><Size>1</Size></Contents>"),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_listing_that_is_not_whole_is_an_error(
    words: str, moto_http: S3Server, bucket: str
) -> None:
    fault = ProxyFault(action="refuse", status=200, target="list-type", body=BROKEN[words].encode())
    with (
        watched(moto_http, bucket, fault) as (destination, _),
        pytest.raises(DestinationError, match=words),
    ):
        list(destination.list(""))


def test_a_listing_that_is_cut_is_asked_for_again(moto_http: S3Server, bucket: str) -> None:
    cut = ProxyFault(action="cut", target="list-type", byte=200)
    with watched(moto_http, bucket, cut) as (destination, _):
        destination.put_if_absent(KEY, b"x")
        assert keys_of(destination) == [KEY]


# --- Uploads that do not end well -----------------------------------------------------------------


def test_a_writer_that_is_left_leaves_no_upload(moto_http: S3Server, bucket: str) -> None:
    with opened(moto_http.endpoint_url, bucket) as destination:
        with destination.writer(KEY) as writer:
            writer.write(LARGE)
            assert uploads(moto_http, bucket) == 1
        assert uploads(moto_http, bucket) == 0
        assert keys_of(destination) == []


def test_a_part_that_is_forbidden_ends_the_upload_and_says_so_again(
    moto_http: S3Server, bucket: str
) -> None:
    fault = refusal(403, "AccessDenied", method="PUT", target="partNumber", times=None)
    with watched(moto_http, bucket, fault) as (destination, _):
        writer = destination.writer(KEY)
        for _ in range(2):
            with pytest.raises(AccessDenied, match=r"one\.full\.bundle"):
                writer.write(LARGE + LARGE)
        writer.abort()
    assert uploads(moto_http, bucket) == 0


def test_a_store_that_fails_for_long_is_an_incomplete_write(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_ATTEMPTS", 2)
    fault = refusal(503, "SlowDown", method="PUT", times=None)
    with watched(moto_http, bucket, fault) as (destination, _):
        for data in (b"small", LARGE):
            with pytest.raises(IncompleteWrite, match="SlowDown") as caught:
                write(destination, data)
            assert caught.value.retryable
    assert uploads(moto_http, bucket) == 0


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (write, Interrupted),
        (lambda one: one.put_if_absent(KEY, b"x"), Interrupted),
        (lambda one: list(one.list("")), Interrupted),
        (lambda one: read(one, KEY), Interrupted),
    ],
    ids=["write", "put", "list", "read"],
)
def test_a_signal_ends_a_wait_for_a_silent_store(
    use: Callable[[S3Destination], object],
    error: type[BackupError],
    moto_http: S3Server,
    bucket: str,
) -> None:
    stop = Stop()
    silent = ProxyFault(action="delay", seconds=600, times=None)
    with watched(moto_http, bucket, silent, stop=stop) as (destination, proxy):

        def interrupt() -> None:
            proxy.wait_until_struck(silent)
            stop.interrupt()

        threading.Thread(target=interrupt).start()
        began = time.monotonic()
        with pytest.raises(error):
            use(destination)
        assert time.monotonic() - began < 8


def test_what_is_finished_is_brought_into_safety_after_a_signal(
    moto_http: S3Server, bucket: str
) -> None:
    stop = Stop()
    stop.interrupt()
    with opened(moto_http.endpoint_url, bucket, stop) as destination:
        destination.put_if_absent(KEY, b"a checkpoint")
        assert read(destination, KEY) == b"a checkpoint"


def test_a_deadline_ends_a_writer_that_waits_and_nobody_else(
    moto_http: S3Server, bucket: str
) -> None:
    now = [0.0]
    stop = Stop(deadline_seconds=10, monotonic=lambda: now[0])
    silent = ProxyFault(action="delay", target="partNumber", seconds=600, times=None)
    with watched(moto_http, bucket, silent, stop=stop) as (destination, proxy):

        def run_out_of_time() -> None:
            proxy.wait_until_struck(silent)
            now[0] = 11.0

        threading.Thread(target=run_out_of_time).start()
        with pytest.raises(DeadlineReached):
            write(destination)
        destination.put_if_absent(KEY, b"the manifest")


# --- Set-up --------------------------------------------------------------------------------------


def test_https_needs_the_authority_that_is_named(
    moto_https: S3Server, tls: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in moto_https.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with (
        opened(moto_https.endpoint_url, "vault") as destination,
        pytest.raises(DestinationError, match="not trusted") as caught,
    ):
        destination.stat(KEY)
    assert not caught.value.retryable


def test_a_profile_that_does_not_exist_is_a_matter_of_configuration(
    moto_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with (
        opened(moto_http.endpoint_url, bucket) as destination,
        pytest.raises(ConfigError, match="nobody"),
    ):
        destination.stat(KEY)


def test_a_store_that_is_not_there_may_come_back(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "_ATTEMPTS", 1)
    with (
        opened("http://127.0.0.1:9", bucket) as destination,
        pytest.raises(DestinationUnreachable, match="s3://"),
    ):
        destination.stat(KEY)


def test_nothing_is_asked_before_the_first_use(moto_http: S3Server, bucket: str) -> None:
    with watched(moto_http, bucket) as (destination, proxy):
        assert destination.uri("x/y") == f"s3://{bucket}/p/x/y"
        assert not destination.listing_is_local
    assert proxy.requests == []
