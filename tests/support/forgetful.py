"""A git server that leaves objects out of the packs it sends: real git, but for what is packed."""

import os
from collections.abc import Iterable
from pathlib import Path

# upload-pack runs it in place of pack-objects, with the ids of what is wanted and of what is there.
# Source: git-config(1), uploadpack.packObjectsHook.
_HOOK = """#!/bin/sh
revisions=$(awk '/^--not/ { there = 1; next } NF { print (there ? "^" : "") $0 }')
case "$revisions" in *^*) kind=increment ;; *) kind=full ;; esac
echo "$kind" >> "$0.asked"
left=$(sed -n 1p "$0.times" 2>/dev/null || echo 0)
if [ "${left:-0}" -gt 0 ] && grep -qx "$kind" "$0.kinds"; then
    echo $((left - 1)) > "$0.times"
    out="$0.out"
else
    out=/dev/null
fi
echo "$revisions" | git rev-list --objects --stdin | cut -d' ' -f1 | grep -vxFf "$out" |
    git pack-objects --stdout -q
"""


class Forgetful:
    """What a server is told to leave out of its packs.

    Args:
        folder: for its program and its notes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._hook = folder / "pack-objects"
        self._hook.write_text(_HOOK)
        self._hook.chmod(0o755)

    @property
    def settings(self) -> dict[str, str]:
        """Give git's configuration at the server."""
        return {"uploadpack.packObjectsHook": os.fspath(self._hook)}

    def leave_out(
        self, ids: Iterable[bytes], *, times: int = 1_000_000, of: str = "increment"
    ) -> None:
        """Leave objects out of so many of the packs to come, increments or fulls, or either."""
        self._note("out").write_bytes(b"".join(oid + b"\n" for oid in ids))
        self._note("times").write_text(f"{times}\n")
        self._note("kinds").write_text(of.replace(" ", "\n") + "\n")

    def asked(self) -> list[str]:
        """List the kinds of the packs that were asked for."""
        note = self._note("asked")
        return note.read_text().split() if note.exists() else []

    def _note(self, name: str) -> Path:
        return self._hook.with_name(f"{self._hook.name}.{name}")
