"""Documents with something wrong in them, as an attacker, a bug or a bad disk leaves them.

A document is spoilt in one place: at the level of JSON (values of every type, keys that are gone,
foreign or there twice, nesting) or at that of bytes (flips, cuts, what is appended, packings).
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON as it stands, also where it is none."""

    text: str


@dataclass(frozen=True, slots=True)
class Twice:
    """An object that has a key a second time."""

    members: dict[str, Any]
    key: str
    value: Any


# --- Ways through a document ----------------------------------------------------------------------


def overlaid(real: Any, golden: Any) -> Any:
    """Give a real document the optional fields that it has at their defaults, from an example."""
    if isinstance(real, dict) and isinstance(golden, dict):
        both = {key: overlaid(real[key], golden[key]) for key in real.keys() & golden.keys()}
        return {**real, **{key: golden[key] for key in golden.keys() - real.keys()}, **both}
    if isinstance(real, list) and isinstance(golden, list) and real and golden:
        return [overlaid(real[0], golden[0]), *real[1:]]
    return real


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every field; of a list to its first item."""
    if isinstance(document, dict):
        items = [*document.items()]
    else:
        items = [*enumerate(document[:1])] if isinstance(document, list) else []
    for step, value in items:
        yield (*path, step)
        yield from paths(value, (*path, step))


def standing_at(document: Any, path: tuple[Any, ...]) -> Any:
    """Return what stands at the end of a way."""
    for step in path:
        document = document[step]
    return document


def changed(real: Any, rich: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    """Put a value into a copy of a document; what leads to it comes from the example if need be."""
    document, there, example = deepcopy(real), True, rich
    place = document
    for step in path[:-1]:
        example = example[step]
        there = there and (step in place if isinstance(place, dict) else step < len(place))
        if not there and isinstance(place, dict) and step not in place:
            place[step] = deepcopy(example)
        elif isinstance(place, list) and step >= len(place):
            place.append(deepcopy(example))
        place = place[step]
    if isinstance(place, list) and path[-1] >= len(place):
        place.append(wrong)
    else:
        place[path[-1]] = wrong
    return document


def dump(value: Any) -> str:
    """Write JSON, with what `json` would not write."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Twice):
        return _joined([*value.members.items(), (value.key, value.value)])
    if isinstance(value, dict):
        return _joined([*value.items()])
    if isinstance(value, list):
        return f"[{','.join(map(dump, value))}]"
    return json.dumps(value)


def _joined(members: list[tuple[str, Any]]) -> str:
    joined = ",".join(f"{json.dumps(key)}:{dump(value)}" for key, value in members)
    return f"{{{joined}}}"


# --- What is put in place of a value --------------------------------------------------------------

_ANYWHERE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**400,
    Raw("1" + "0" * 5000),
    Raw("-0"),
    Raw("1e400"),
    Raw("1e5"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw('"\\ud800"'),
    Raw("[" * 150 + "]" * 150),
    Raw("[" * 100_000 + "]" * 100_000),
    Raw('{"a":' * 5000 + "1" + "}" * 5000),
    Raw(""),
    "",
    " ",
    "\0",
    "é",
    "\u202e\x1b[2J",
    ".",
    "..",
    "/",
    "../../x",
    "/etc/passwd",
    "a//b",
    "a\\b",
    "a\nb",
    "CON",
    "x" * 300,
    "x" * 5000,
    "a/" * 500 + "b",
    "=",
    "****",
    "nönsense",
    "cmVmcy9oZWFkcy/pdOk",
    "refs/heads/../../x",
    "refs/heads/a.lock",
    "0" * 39,
    "0" * 40,
    "f" * 64,
    "F" * 64,
    "0" * 63,
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1970-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59",
    "00010101T000000Z-aaaaaaaa",
    "19700101T000000Z-aaaaaaaa",
    "99991231T235959Z-aaaaaaaa",
    "snapshots/00010101T000000Z-aaaaaaaa",
    "snapshots/99991231T235959Z-aaaaaaaa",
    "checkpoints/99991231T235959Z-aaaaaaaa.1",
    "repositories/x/1/20260101T000000Z-aaaaaaaa.record.json.gz",
    "repositories/x/1/20260101T000000Z-aaaaaaaa.full.bundle",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": []}},
    [{}] * 50,
    ["x"] * 2000,
)


def _of_text(text: str, chance: random.Random) -> Any:
    cut = chance.randrange(len(text) + 1)
    return chance.choice(
        (
            f"{text}é",
            f"{text}\n",
            f"\\{text}",
            f"{text}\\",
            f"{text}/..",
            f"../{text}",
            f"/{text}",
            f"{text}/",
            f"{text}\0",
            text[:cut],
            text[cut:],
            f"{text[:cut]}//{text[cut:]}",
            text * 100,
            text.upper(),
            Raw(f'{json.dumps(text)[:-1]}\\udc80"'),
            [text],
        )
    )


def _of_number(number: float, chance: random.Random) -> Any:
    return chance.choice(
        (-number, number + 1, number - 1, number * 2**40, float(number), str(number), bool(number))
    )


def _of_list(items: list[Any], chance: random.Random) -> Any:
    return chance.choice(
        (
            [*items, *items],
            items[::-1],
            items[1:],
            [*items, None],
            items * 300 if len(dump(items)) < 20_000 else items * 3,
            [items],
            dict.fromkeys(map(str, range(len(items)))),
        )
    )


def _of_object(members: dict[str, Any], chance: random.Random) -> Any:
    key = chance.choice([*members, "foreign"])
    return chance.choice(
        (
            {name: value for name, value in members.items() if name != key},
            Twice(members, key, chance.choice(_ANYWHERE)),
            Twice(members, key, members.get(key)),
            members | {f"{key}x": chance.choice(_ANYWHERE)},
            members | {"": 1, "model_config": 2, "__class__": 3, "identity": 4},
            [members],
            {str(number): number for number in range(5000)},
        )
    )


def _instead_of(value: Any, chance: random.Random) -> Any:
    # A text is most likely to pass for one where it is nearly the one that stood there.
    if chance.random() < (0.2 if isinstance(value, str) else 0.5):
        return chance.choice(_ANYWHERE)
    if isinstance(value, str):
        return _of_text(value, chance)
    if isinstance(value, bool | int | float):
        return _of_number(value, chance)
    if isinstance(value, list):
        return _of_list(value, chance)
    if isinstance(value, dict):
        return _of_object(value, chance)
    return chance.choice(_ANYWHERE)


# --- Spoiling a document --------------------------------------------------------------------------


def spoilt(data: bytes, example: Any, chance: random.Random) -> tuple[str, bytes]:
    """Spoil a stored document in one place; return what was done, and the object.

    Args:
        data: the object as it is stored.
        example: a document of its kind with every field that there is.
        chance: decides; from the same seed it decides the same.
    """
    if chance.random() < 0.25:
        name, spoil = chance.choice(_OF_BYTES)
        return name, spoil(data, chance)
    real = json.loads(gzip.decompress(data))
    rich = overlaid(real, example)
    # As often as not a text: keys, names, ids and times are what programs go by.
    every = [*paths(rich)]
    texts = [one for one in every if isinstance(standing_at(rich, one), str)]
    path = chance.choice([chance.choice(texts), chance.choice(every), chance.choice([(), *every])])
    if not path:
        wrong = _of_object(real, chance)
        return f"{_short(wrong)} for all of it", pack(dump(wrong).encode())
    value = standing_at(rich, path)
    wrong = _instead_of(value, chance)
    if chance.random() < 0.2:
        # What is sound elsewhere in it.
        wrong = standing_at(rich, chance.choice([*paths(rich)]))
    document = changed(real, rich, path, wrong)
    return f"{_short(wrong)} at {path}", pack(dump(document).encode("utf-8", "surrogatepass"))


def _short(wrong: Any) -> str:
    return repr(wrong)[:80]


def pack(text: bytes) -> bytes:
    """Pack a document as the program does."""
    return gzip.compress(text, mtime=0)


def _flip(data: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if flipped:
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _grow(data: bytes, chance: random.Random) -> bytes:
    return data + chance.choice((b"\0", b"\n", b"{}", data, chance.randbytes(20)))


def _drop(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 20) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    end = start + chance.randrange(1, 60)
    return data[:end] + data[start:end] + data[end:]


def _within(spoil: Callable[[bytes, random.Random], bytes]) -> Callable[..., bytes]:
    def spoil_text(data: bytes, chance: random.Random) -> bytes:
        return pack(spoil(gzip.decompress(data), chance))

    return spoil_text


def _deflated(text: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return packer.compress(text) + packer.flush()


_OF_BYTES: tuple[tuple[str, Callable[[bytes, random.Random], bytes]], ...] = (
    ("bits flipped", _flip),
    ("cut", _cut),
    ("grown", _grow),
    ("a piece gone", _drop),
    ("text: bits flipped", _within(_flip)),
    ("text: bits flipped", _within(_flip)),
    ("text: cut", _within(_cut)),
    ("text: grown", _within(_grow)),
    ("text: a piece gone", _within(_drop)),
    ("text: a piece twice", _within(_repeat)),
    ("text: not UTF-8", _within(lambda text, chance: text.replace(b'":"', b'":"\xff', 1))),
    ("text: a surrogate", _within(lambda text, chance: text.replace(b'":"', b'":"\xed\xa0\x80'))),
    ("text: marked", _within(lambda text, chance: b"\xef\xbb\xbf" + text)),
    ("text: UTF-16", _within(lambda text, chance: text.decode().encode("utf-16"))),
    ("nothing", lambda data, chance: b""),
    ("random", lambda data, chance: chance.randbytes(200)),
    ("not packed", lambda data, chance: gzip.decompress(data)),
    ("packed twice", lambda data, chance: pack(data)),
    ("packed by zlib", lambda data, chance: _deflated(gzip.decompress(data), 15)),
    ("packed without a head", lambda data, chance: _deflated(gzip.decompress(data), -15)),
    (
        "two members",
        lambda data, chance: pack(gzip.decompress(data)[:50]) + pack(gzip.decompress(data)[50:]),
    ),
    ("unpacks to much", lambda data, chance: pack(gzip.decompress(data) + b" " * (20 << 20))),
)
