"""The outer shape of documents: gzip around JSON, and how much of it there may be at the most.

Readers refuse what exceeds a limit before anything is made of it, and writers make no such thing.
In memory a document takes about what it unpacks to, twice, 1 KB for each of its JSON objects, and
4 KB for each entry of a manifest: 1 GB for 250,000 entries, 2 GB for a record of a million refs of
which each has changed (measured). What is hostile to the limits takes 6 GB.
"""

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pydantic_core

from backup.limits import MAX_DOCUMENT_BYTES, MAX_ENTRIES, MAX_OBJECTS, MAX_VALUES

# What does not pack is stored as it is, and gzip adds five bytes to every 32 KiB of it.
MAX_STORED_BYTES = MAX_DOCUMENT_BYTES + (1 << 20)


def excess(text: bytes) -> str:
    """Return which limit a document's text exceeds, as what follows "it has"; or nothing."""
    if len(text) > MAX_DOCUMENT_BYTES:
        return f"{len(text)} bytes, and {MAX_DOCUMENT_BYTES} are the most"
    # Some of them stand in texts. That is no matter: those of sound documents are far fewer.
    objects = text.count(b"{")
    if objects > MAX_OBJECTS:
        return f"{objects} JSON objects, and {MAX_OBJECTS} are the most"
    values = objects + text.count(b"[") + text.count(b",")
    return f"{values} values, and {MAX_VALUES} are the most" if values > MAX_VALUES else ""


def too_many(members: Mapping[str, Any]) -> str:
    """Return the same of a document's members."""
    entries = members.get("entries")
    if isinstance(entries, list | tuple) and len(entries) > MAX_ENTRIES:
        return f"{len(entries)} entries, and {MAX_ENTRIES} are the most"
    return ""


def pack(text: bytes) -> bytes:
    """Return a document as it is stored; the same text always gives the same bytes."""
    return gzip.compress(text, compresslevel=9, mtime=0)


def fields_in(data: bytes) -> Any:
    """Return what stands in a stored document.

    Raises:
        ValueError: it is no gzip, no JSON, or exceeds a limit.
    """
    text = _unpack(data)
    if problem := excess(text):
        raise ValueError(f"it has {problem}")
    fields = pydantic_core.from_json(text)
    if isinstance(fields, dict) and (problem := too_many(fields)):
        raise ValueError(f"it has {problem}")
    return fields


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, MAX_DOCUMENT_BYTES + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_DOCUMENT_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("the gzip stream does not end where the object does")
    return text
