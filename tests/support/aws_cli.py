"""Stands for the AWS command line in the commands of documents, as far as these use it.

Run as a program. It makes the same calls by boto3, whose endpoint and credentials the environment
names.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import jmespath  # type: ignore[import-untyped]


def main(words: Sequence[str]) -> int:
    """Do what `aws` with these words would."""
    match words:
        case ["s3", "cp", "--quiet", source, target]:
            _copy(source, target)
        case ["s3", "sync", "--quiet", source, target]:
            _sync(source, Path(target))
        case ["s3", "rm", "--quiet", "--recursive", target]:
            _remove(target)
        case ["cloudformation", "deploy", *more]:
            _deploy(more)
        case ["cloudformation", "describe-stacks", *more]:
            _describe(more)
        case _:
            sys.stderr.write(f"the tests' aws does not know {words}\n")
            return 2
    return 0


def _copy(source: str, target: str) -> None:
    bucket, key = _place(source)
    data = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    if target == "-":
        sys.stdout.buffer.write(data)
    else:
        Path(target).write_bytes(data)


def _sync(source: str, target: Path) -> None:
    bucket, prefix = _place(source)
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            path = target / one["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read())


def _remove(target: str) -> None:
    bucket, prefix = _place(target)
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=one["Key"])


def _place(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _deploy(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stack-name", required=True)
    parser.add_argument("--template-file", type=Path, required=True)
    parser.add_argument("--capabilities", nargs="+")
    parser.add_argument("--parameter-overrides", nargs="+", default=[])
    asked = parser.parse_args(words)
    pairs = (one.partition("=") for one in asked.parameter_overrides)
    boto3.client("cloudformation").create_stack(
        StackName=asked.stack_name,
        TemplateBody=asked.template_file.read_text("utf-8"),
        Capabilities=asked.capabilities,
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, _, value in pairs],
    )
    sys.stdout.write(f"Successfully created/updated stack - {asked.stack_name}\n")


def _describe(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stack-name", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--output", choices=["text"], required=True)
    asked = parser.parse_args(words)
    answer = boto3.client("cloudformation").describe_stacks(StackName=asked.stack_name)
    sys.stdout.writelines(_text(jmespath.search(asked.query, answer)))


def _text(rows: Any) -> Iterator[str]:
    for row in rows:
        yield "\t".join(str(cell) for cell in row) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION", "us-east-1"))
    sys.exit(main(sys.argv[1:]))
