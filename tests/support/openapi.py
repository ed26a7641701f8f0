"""GitHub's own description of its API, to hold a fake against.

It comes with the npm package @octokit/openapi, whose hash is pinned here.
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.npm import npm_package

_PACKAGE = "@octokit/openapi@23.0.2"
_SHA512 = "pV8M7L9GY23AybNvTmo2nyjmpmnt6+2sRE/tqr0ZLQcPS4lnw7u5eZGNmwRNkBC3D7gZXbFx5AHzLUVRBXGDhg=="
_BASE = "urn:github"


class Description:
    """One product's API, such as ``api.github.com`` or ``ghes-3.19``."""

    def __init__(self, document: dict[str, Any]) -> None:
        # Examples are not described by themselves, and would be taken for schemas with "nullable".
        self._examples: Mapping[str, Any] = document["components"].pop("examples", {})
        _as_json_schema(document)
        self._document = document
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
        self._registry = Registry().with_resource(_BASE, resource)
        self._patterns = sorted(
            ((re.compile(_pattern(path)), path) for path in document["paths"]),
            key=lambda one: one[1].count("{"),
        )

    def problems(self, method: str, path: str, status: int, body: Any) -> list[str]:
        """Tell where an answer differs from what is described; nothing when it fits.

        Args:
            method: such as GET.
            path: without the query.
            status: of the answer.
            body: the parsed JSON.
        """
        template = next((found for regex, found in self._patterns if regex.fullmatch(path)), None)
        if template is None:
            return [f"{path} is no path of the API"]
        operation = self._document["paths"][template].get(method.lower())
        if operation is None:
            return [f"{template} has no {method}"]
        answer = operation["responses"].get(str(status))
        if answer is None:
            return [f"{template} never answers {status}"]
        content = self._followed(answer).get("content", {})
        if not content:
            return [] if body is None else [f"{template} answers {status} without a body"]
        schema = json.dumps(next(iter(content.values()))["schema"])
        schema = json.loads(schema.replace('"$ref": "#/', f'"$ref": "{_BASE}#/'))
        validator = Draft202012Validator(schema, registry=self._registry)
        return [
            f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(body)
        ]

    def example(self, template: str) -> Any:
        """Give GitHub's own example of an answer to GET."""
        answer = self._followed(self._document["paths"][template]["get"]["responses"]["200"])
        examples = next(iter(answer["content"].values()))["examples"]
        reference = next(iter(examples.values()))
        if "$ref" in reference:
            reference = self._examples[reference["$ref"].rpartition("/")[2]]
        return json.loads(json.dumps(reference["value"]))

    def _followed(self, node: Any) -> Any:
        while "$ref" in node:
            place = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                place = place[part]
            node = place
        return node


@functools.cache
def description(product: str) -> Description:
    """Load the description of a product.

    Raises:
        PackagesMissing: it could not be fetched.
    """
    folder = npm_package(_PACKAGE, _SHA512, only=f"generated/{product}.json")
    return Description(json.loads((folder / "generated" / f"{product}.json").read_text("utf-8")))


def _pattern(template: str) -> str:
    return re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(template))


def _as_json_schema(node: Any) -> None:
    """Turn ``nullable`` of OpenAPI 3.0 into what JSON Schema says instead, in place."""
    if isinstance(node, dict):
        if node.pop("nullable", None) is True:
            if isinstance(node.get("type"), str):
                node["type"] = [node["type"], "null"]
            if isinstance(node.get("enum"), list):
                node["enum"] = [*node["enum"], None]
            for word in ("allOf", "anyOf", "oneOf"):
                if isinstance(node.get(word), list):
                    node["anyOf"] = [{"type": "null"}, {word: node.pop(word)}]
                    break
        for child in list(node.values()):
            _as_json_schema(child)
    elif isinstance(node, list):
        for child in node:
            _as_json_schema(child)
