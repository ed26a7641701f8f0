"""moto's server as a program, for buckets that live long: it forgets what it has answered.

moto copies a whole bucket with its contents for each page of a listing of versions, and keeps every
copy for ever: of some thousand objects and some thousand listings that made seven gigabytes, and
minutes. Here it copies what may stand on the page, without the contents, and keeps nothing.
"""

import copy
import io
import threading
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

from moto import server
from moto.core.common_models import BaseModel
from moto.s3 import models


def _untracked(cls: type, *_args: Any, **_more: Any) -> Any:
    return object.__new__(cls)


_asked = threading.local()
_list_object_versions = models.S3Backend.list_object_versions


def _list_versions(self: Any, bucket_name: str, **more: Any) -> Any:
    prefix, marker = more.get("prefix") or "", more.get("key_marker") or ""
    keys = self.get_bucket(bucket_name).keys
    names = sorted(name for name in keys if name.startswith(prefix) and name >= marker)
    if not more.get("delimiter"):
        # One more than a page has tells that there is another one.
        counts = accumulate(len(keys.getlist(name)) for name in names)
        most = len(keys.getlist(marker, [])) + more["max_keys"] + 1
        full = next((number for number, count in enumerate(counts, 1) if count >= most), None)
        names = names[:full]
    _asked.names = {*names}
    return _list_object_versions(self, bucket_name, **more)


def _listed(versions: list[Any]) -> list[Any]:
    """Copy the versions of one name as far as a listing tells of them; none of other pages."""
    found: list[Any] = []
    if not versions or versions[0].name not in _asked.names:
        return found
    for one in versions:
        if not isinstance(one, models.FakeKey):
            found.append(copy.copy(one))
            continue
        line = object.__new__(models.FakeKey)
        # What nothing has read yet is made from the contents.
        line.__dict__ |= one.__dict__ | {"_etag": one.etag.strip('"')}
        # The end of a copy closes its buffer.
        line.__dict__ |= {"_value_buffer": io.BytesIO(), "multipart": None, "disposed": True}
        found.append(line)
    return found


if __name__ == "__main__":
    BaseModel.__new__ = _untracked  # type: ignore[method-assign]
    models.S3Backend.list_object_versions = _list_versions  # type: ignore[assignment, method-assign]
    models.copy = SimpleNamespace(copy=copy.copy, deepcopy=_listed)  # type: ignore[assignment, attr-defined]
    server.main()
