"""How much of what others send is taken: each limit once, for the code and the documents. Pure.

Bytes are those after unpacking. What exceeds a limit fails its repository with an error that names
the limit; nothing is cut to fit, and the other repositories are done.
"""

from typing import NamedTuple

# Of the floor that we hold to, a million refs, the list has some 80 MB, with annotated tags 130.
MOST_REFS = 1_000_000
MOST_REF_LIST_BYTES = 256 << 20
MOST_REF_LIST_SECONDS = 3600.0
# Counting and packing the largest repositories takes a small server hours. It says all the while
# that it is still there, which is all that tells it from one that never begins.
MOST_PREPARING_SECONDS = 6 * 3600.0
# Less is no transfer any more: over twice as long as a server may send nothing at all.
LEAST_BYTES_PER_SECOND = 1024
LEAST_RATE_SECONDS = 600.0
LEAST_RATE_SECONDS_OVER_SSH = 1800.0
# git's own has some hundred bytes.
MOST_CAPABILITY_BYTES = 1 << 20
# An answer about a hundred files has some 100 KB.
MOST_LFS_ANSWER_BYTES = 16 << 20
MOST_LFS_SSH_BYTES = 1 << 16
# Of an API's: parsed it takes up to 25 times that; pages have about 1 MiB.
MOST_API_BYTES = 32 << 20
# From the request to the last byte.
MOST_API_SECONDS = 300.0
MOST_API_REDIRECTS = 10
# Of the listings of one owner. Pages may hold less than they could, also nothing.
MOST_PAGES = 50_000
MOST_ITEMS = 500_000
# Of a page or message in place of an answer; a title may stand behind a long style sheet.
MOST_PAGE_BYTES = 1 << 16
# What unpacks to more is made to keep a reader busy; text of one kind packs to a hundredth, a list
# of refs that all name one commit to a thirtieth, a pack hardly.
MOST_RATIO = 250
UNPACKED_AT_ANY_RATIO_BYTES = 16 << 20
# What a document of the vault unpacks to.
MAX_DOCUMENT_BYTES = 256 << 20
# A document of a few bytes may unpack to as many brackets, each of which takes a hundred.
MAX_VALUES = 1 << 24
MAX_OBJECTS = 1 << 22
MAX_ENTRIES = 250_000


class Limit(NamedTuple):
    """A limit as the documents have it.

    Attributes:
        what: is limited.
        most: of it, in its unit.
        unit: ``bytes``, or what is counted.
        then: what follows where it is exceeded.
    """

    what: str
    most: int
    unit: str
    then: str


_FAILS = "the repository fails"
LIMITS = (
    Limit("refs that are taken of one repository", MOST_REFS, "refs", _FAILS),
    Limit("a list of refs, unselected ones included", MOST_REF_LIST_BYTES, "bytes", _FAILS),
    Limit(
        "the time for a list of refs, without what we do meanwhile",
        int(MOST_REF_LIST_SECONDS),
        "seconds",
        _FAILS,
    ),
    Limit(
        "the time until the first byte of a pack, though the server says that it is at work",
        int(MOST_PREPARING_SECONDS),
        "seconds",
        _FAILS,
    ),
    Limit(
        f"{int(LEAST_RATE_SECONDS) * LEAST_BYTES_PER_SECOND >> 10} KiB of a list of refs, a pack "
        "or a file of Git LFS, from the first byte on",
        int(LEAST_RATE_SECONDS),
        "seconds",
        "the repository or that file is tried again, and fails",
    ),
    Limit(
        f"{int(LEAST_RATE_SECONDS_OVER_SSH) * LEAST_BYTES_PER_SECOND >> 10} KiB of a list of refs "
        "or a pack over ssh, from the first byte on",
        int(LEAST_RATE_SECONDS_OVER_SSH),
        "seconds",
        "the repository is tried again, and fails",
    ),
    Limit("the capabilities of a git server", MOST_CAPABILITY_BYTES, "bytes", _FAILS),
    Limit(
        f"an answer of a git server that unpacks to more than {UNPACKED_AT_ANY_RATIO_BYTES >> 20} "
        "MiB, compared with what came",
        MOST_RATIO,
        "times",
        _FAILS,
    ),
    Limit(
        "an answer of an LFS server about files",
        MOST_LFS_ANSWER_BYTES,
        "bytes",
        "those files fail",
    ),
    Limit(
        "an answer of `git-lfs-authenticate` over ssh",
        MOST_LFS_SSH_BYTES,
        "bytes",
        "those files fail",
    ),
    Limit(
        "an answer of a forge's API, packed and unpacked",
        MOST_API_BYTES,
        "bytes",
        "the owner's listing fails",
    ),
    Limit(
        "the time for an answer of an API or an LFS server, to its last byte",
        int(MOST_API_SECONDS),
        "seconds",
        "the owner's listing or those files fail",
    ),
    Limit(
        "an answer of an API that leads on",
        MOST_API_REDIRECTS,
        "times",
        "the owner's listing fails",
    ),
    Limit("the listings of an owner", MOST_PAGES, "pages", "the owner's listing fails"),
    Limit("the listings of an owner", MOST_ITEMS, "items", "the owner's listing fails"),
    Limit(
        "a page or a message in place of an answer",
        MOST_PAGE_BYTES,
        "bytes",
        "the rest is not read",
    ),
    Limit(
        "a document of the vault",
        MAX_DOCUMENT_BYTES,
        "bytes",
        "a record fails its repository, a manifest its owner",
    ),
    Limit("a document of the vault", MAX_VALUES, "values", "the same"),
    Limit("a document of the vault", MAX_OBJECTS, "JSON objects", "the same"),
    Limit("a manifest", MAX_ENTRIES, "entries", "its owner's run fails"),
)
