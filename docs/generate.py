"""Writes the generated parts of the documents, or tells that they are stale.

``python -m docs.generate`` writes, ``python -m docs.generate --check`` compares, prints the
difference and exits with 1. What is generated comes from the inputs (`backup.config.INPUTS`), the
stored documents (`backup.vault.documents`), the rule for keys (`backup.vault.layout`) and the
limits (`backup.limits`); the same code always gives the same text.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import get_annotations
from pathlib import Path
from typing import Any

from backup.config import COMMANDS, INPUTS, WORKING_COMMANDS, Command, Input, taken_by
from backup.doors.action import OUTPUTS
from backup.limits import LIMITS
from backup.vault import (
    documents,
    documents_of_exports,
    documents_of_files,
    documents_of_listings,
    documents_of_prune,
)
from backup.vault.documents import STORED
from backup.vault.fields import Part
from backup.vault.layout import Layout, escape_path
from docs.action_yml import action_yml
from docs.fields import MEANINGS, RESERVED

ROOT = Path(__file__).parent.parent
SCHEMAS = Path("docs/reference/schemas")

_MARKED = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of \2 -->)", re.DOTALL
)
_NAMES = (
    "widgets",
    ".github",
    "größe",
    "two words",
    "100%",
    "a~b",
    "ends.",
    "aux.c",
    "group/sub group/widgets",
    "x" * 130,
)
_HOSTS = (("folder", "acme"), ("git.example.org:8443", "My Team"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when stale")
    check = parser.parse_args(arguments).check
    stale = {path: text for path, text in generated(ROOT).items() if _read(path) != text}
    for path, text in stale.items():
        if check:
            sys.stdout.writelines(_difference(path, text))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and check:
        sys.stderr.write("the documents are stale; hint: make docs\n")
        return 1
    return 0


def generated(root: Path) -> dict[Path, str]:
    """Map each file with generated parts to what it should hold.

    Raises:
        ValueError: a part is marked in no document, or a document marks a part that is none.
    """
    parts = dict(_parts())
    texts = {path: _read(path) for path in _documents(root)}
    marked = [found["name"] for text in texts.values() for found in _MARKED.finditer(text)]
    if sorted(marked) != sorted(parts):
        raise ValueError(f"marked are {sorted(marked)}, generated {sorted(parts)}")
    filled = {path: _fill(text, parts) for path, text in texts.items() if _MARKED.search(text)}
    whole = {root / SCHEMAS / name: text for name, text in _schemas()}
    return filled | whole | {root / "action.yml": action_yml()}


def _documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def _fill(text: str, parts: Mapping[str, Callable[[], Iterable[str]]]) -> str:
    def one(found: re.Match[str]) -> str:
        body = "".join(f"{line}\n" for line in parts[found["name"]]())
        return f"{found['begin']}{body}\n{found['end']}"

    return _MARKED.sub(one, text)


def _parts() -> Iterator[tuple[str, Callable[[], Iterable[str]]]]:
    for command in WORKING_COMMANDS:
        yield f"options-of-{command}", _bound(_options, command)
    yield "not-yet", _not_yet
    yield "inputs", _inputs
    yield "inputs-in-full", _inputs_in_full
    yield "outputs", _outputs
    yield "keys", _keys
    yield "limits", _limits
    for model in _models():
        yield f"fields-of-{model.__name__}", _bound(_fields, model)


def _bound(make: Callable[[Any], Iterable[str]], argument: object) -> Callable[[], Iterable[str]]:
    return lambda: make(argument)


def _limits() -> Iterator[str]:
    yield from _head("Of", "At most", "More than that")
    for one in LIMITS:
        most = f"{one.most:,} {one.unit}"
        if one.unit == "bytes":
            most = f"{one.most >> 20} MiB" if one.most >> 20 else f"{one.most >> 10} KiB"
        yield _row(one.what, most, one.then)


# --- Options -----------------------------------------------------------------------------------


def _options(command: Command) -> Iterator[str]:
    yield from _head("Option", "Value", "Default", "What it does")
    for one in taken_by(command):
        if one.available and not one.secret:
            yield _row(_spelled(one, command), _value(one), _default(one), _cell(one.help))


def _not_yet() -> Iterator[str]:
    missing = [f"`{command}`" for command in COMMANDS if command not in WORKING_COMMANDS]
    yield f"Commands: {', '.join(missing)}."
    for command in WORKING_COMMANDS:
        names = [
            f"`{one.variable(command)}`" if one.secret else f"`{one.option(command)}`"
            for one in taken_by(command)
            if not one.available
        ]
        if names:
            yield ""
            yield f"With `{command}`: {', '.join(names)}."


def _inputs() -> Iterator[str]:
    yield from _head("Input", "Default", "What it does")
    for one in INPUTS:
        if one.action and one.available:
            default = f"`{one.default}`" if one.default else ""
            yield _row(f"`{one.name}`", default, _cell(one.help))


def _inputs_in_full() -> Iterator[str]:
    yield from _head("Input", "Value", "Default", "What it does")
    for one in INPUTS:
        if one.action and one.available:
            default = f"`{one.default}`" if one.default else ""
            accepts = "true or false" if one.is_flag else _cell(one.syntax.accepts)
            yield _row(f"`{one.name}`", accepts, default, _cell(one.help))
    missing = [f"`{one.name}`" for one in INPUTS if one.action and not one.available]
    yield ""
    yield f"Not available yet, and refused by name: {', '.join(missing)}."


def _outputs() -> Iterator[str]:
    yield from _head("Output", "What it is")
    for name, what in OUTPUTS.items():
        yield _row(f"`{name}`", _cell(what))


def _spelled(one: Input, command: Command) -> str:
    option = one.option(command)
    return f"`{option}`, `--no-{option[2:]}`" if one.is_flag and one.action else f"`{option}`"


def _value(one: Input) -> str:
    return "" if one.is_flag else _cell(one.syntax.accepts)


def _default(one: Input) -> str:
    if one.is_flag:
        return {"true": "on", "false": "off"}.get(one.default, "")
    return f"`{one.default}`" if one.default else ""


# --- Keys --------------------------------------------------------------------------------------


def _keys() -> Iterator[str]:
    yield from _head("Name", "In a key")
    for host, owner in _HOSTS:
        yield _row(
            f"host `{host}`, owner `{owner}`", f"`{Layout.of(host=host, owner=owner).prefix}`"
        )
    for name in _NAMES:
        shown = f"`{name}`" if len(name) <= 40 else f"`{name[0]}`, {len(name)} times"
        yield _row(shown, f"`{escape_path(name)}`")


# --- Stored documents --------------------------------------------------------------------------


def _everything() -> dict[str, Any]:
    modules = (
        documents,
        documents_of_exports,
        documents_of_files,
        documents_of_listings,
        documents_of_prune,
    )
    return {name: one for module in modules for name, one in vars(module).items()}


def _models() -> list[type[Part]]:
    """List every class of the stored documents that has fields of its own, as written there."""
    found = (one for one in _everything().values() if isinstance(one, type))
    models = [one for one in found if issubclass(one, Part) and one is not Part]
    return [model for model in models if _own_fields(model)]


def _own_fields(model: type[Part]) -> list[str]:
    above = {name for base in model.__mro__[1:] for name in get_annotations(base)}
    return [name for name in get_annotations(model) if name not in above]


def _fields(model: type[Part]) -> Iterator[str]:
    schema = model.model_json_schema()
    yield from _head("Field", "Type", "Left out when", "Meaning")
    for name in _own_fields(model):
        field = schema["properties"][name]
        left_out = "" if name in schema.get("required", ()) else _left_out_when(field)
        reserved = "*Reserved:* " if f"{model.__name__}.{name}" in RESERVED else ""
        yield _row(f"`{name}`", _type(field), left_out, reserved + _cell(meaning(model, name)))


def meaning(model: type[Part], name: str) -> str:
    """Explain one field, from the model or from `docs.fields`.

    Raises:
        ValueError: it is explained in neither place, or in both.
    """
    owner = next(base for base in model.__mro__ if name in get_annotations(base))
    described = model.model_fields[name].description
    written = MEANINGS.get(f"{owner.__name__}.{name}")
    if (described is None) == (written is None):
        raise ValueError(f"{owner.__name__}.{name} needs one explanation, has {described, written}")
    return described or written or ""


def _left_out_when(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    match default:
        case None:
            return "there is none"
        case [] | "":
            return "it is empty"
        case dict():
            return "all in it is left out"
        case _:
            return f"`{json.dumps(default)}`"


def _type(field: Mapping[str, Any]) -> str:
    match field:
        case {"anyOf": [one, *_]}:
            return _type(one)
        case {"$ref": str() as target}:
            return _link(target.rpartition("/")[2])
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"enum": list() as values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": dict() as items}:
            one = _type(items)
            return f"list of {one}" if one.startswith("[") else f"list of {one}s"
        case {"type": "object", "additionalProperties": dict() as values}:
            return f"object of {_type(values)}s"
        case {"format": "date-time"}:
            return "time"
        case {"pattern": str() as pattern} if pattern.endswith("*$"):
            return "object ids without anything between them"
        case {"pattern": str() as pattern}:
            return "object id" if "{40}" in pattern else "64 hex digits"
        case _:
            return str(field["type"])


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _schemas() -> Iterator[tuple[str, str]]:
    for name, model in STORED.items():
        schema = model.model_json_schema()
        for one in (schema, *schema.get("$defs", {}).values()):
            _explain(one)
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        text = json.dumps(whole, indent=2, ensure_ascii=False)
        yield f"{name}.schema.json", f"{text}\n"


def _explain(schema: dict[str, Any]) -> None:
    model = _everything()[schema["title"]]
    for name, field in schema["properties"].items():
        field.pop("title", None)
        field["description"] = meaning(model, name)


def unused_meanings() -> set[str]:
    """Name the explanations and reservations of fields that are gone."""
    present = {f"{model.__name__}.{name}" for model in _models() for name in _own_fields(model)}
    return (set(MEANINGS) | RESERVED) - present


# --- Text --------------------------------------------------------------------------------------


def _head(*headings: str) -> Iterator[str]:
    yield ""
    yield _row(*headings)
    yield _row(*("---" for _ in headings))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _difference(path: Path, text: str) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    before, after = (one.splitlines(keepends=True) for one in (_read(path), text))
    return difflib.unified_diff(before, after, f"{name} (as it is)", f"{name} (generated)")


if __name__ == "__main__":
    sys.exit(main())
