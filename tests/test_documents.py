"""Holds the documents to the program: what they say is generated, run, or compared here."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml

from backup.config import COMMANDS, INPUTS, WORKING_COMMANDS, Command, taken_by
from backup.doors.action import OUTPUTS
from backup.errors import ExitCode
from backup.model import Check
from backup.vault.documents import STORED
from docs import generate
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.program import repo_backup
from tests.support.shown import Shown, agree, assert_said, run_shown, shown_commands

ROOT = Path(__file__).parent.parent
SNAPSHOTS = (
    "20250301T031500Z-4f9c2a1b",
    "20250302T031500Z-77e0d3c5",
    "20250303T031500Z-0b51ce92",
)
"""The ids in the documents' examples; days on which no machine's clock is any more."""

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")])
BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
KINDS = {"breaking", "added", "changed", "fixed", "security"}
BUCKET = "example-vault"

AWS = f"""#!/bin/sh
# Stands for the AWS command line: s3://{BUCKET} is the folder ./vault of the one who reads.
[ "$1 $2 $3" = "s3 cp --quiet" ] && [ $# = 5 ] || exit 9
source="$BUCKET/${{4#s3://{BUCKET}/}}"
[ "$5" = - ] && exec cat "$source"
mkdir -p "$(dirname "$5")" && exec cp "$source" "$5"
"""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(params=[named(path) for path in DOCUMENTS])
def document(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


def section(text: str, heading: str) -> str:
    """Give what stands below a heading, up to the next one of its level or a higher one."""
    level = heading.partition(" ")[0]
    prose = re.sub(BLOCK, lambda block: block[0].replace("#", "."), text)
    begin = prose.index(f"\n{heading}\n") + len(heading) + 2
    end = re.compile(rf"^#{{1,{len(level)}}} ", re.MULTILINE).search(prose, begin)
    return text[begin : end.start() if end else None]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of every table row but headings and the lines below them."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    for line, below in zip(table, [*table[1:], ""], strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not below.startswith("| ---") and set(cells[0]) != {"-"}:
            yield cells


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def outside_blocks(text: str) -> str:
    return re.sub(BLOCK, "", text)


class TestGeneratedParts:
    def test_they_are_what_the_code_says_today(self) -> None:
        fresh = generate.generated(ROOT)
        stale = [named(path) for path, text in fresh.items() if path.read_text("utf-8") != text]
        assert stale == [], "make docs writes them again"
        assert {named(path) for path in fresh} >= {"README.md", "docs/reference/format.md"}

    def test_each_run_gives_the_same_text(self) -> None:
        assert generate.generated(ROOT) == generate.generated(ROOT)

    def test_a_stale_part_is_shown_refused_and_mended(self, tmp_path: Path) -> None:
        for name in ("backup", "docs", "README.md"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
        readme = tmp_path / "README.md"
        readme.write_text(readme.read_text("utf-8").replace("| `check` |", "| `checked` |"))

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "docs.generate", *words]
            return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

        refused = run("--check")
        assert refused.returncode == 1
        assert "-| `checked` |" in refused.stdout
        assert "+| `check` |" in refused.stdout
        assert "make docs" in refused.stderr
        assert run().returncode == 0
        assert readme.read_text("utf-8") == text_of("README.md")
        assert run("--check").returncode == 0

    def test_a_part_that_is_marked_nowhere_is_an_error(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "docs", tmp_path / "docs")
        (tmp_path / "README.md").write_text("# Without a mark\n")
        with pytest.raises(ValueError, match="marked are"):
            generate.generated(tmp_path)

    def test_every_explanation_is_of_a_field_that_exists(self) -> None:
        assert generate.unused_meanings() == set()


class TestReferences:
    def test_every_relative_link_leads_to_a_file_and_its_heading(self, document: Path) -> None:
        broken = []
        for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(document.read_text("utf-8"))):
            if re.match(r"https?:", target):
                continue
            place, _, anchor = target.partition("#")
            file = (document.parent / place).resolve() if place else document
            if not file.exists() or (anchor and anchor not in _anchors(file)):
                broken.append(target)
        assert broken == []

    def test_every_path_of_the_project_that_is_named_exists(self, document: Path) -> None:
        tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".venv"}
        missing = [
            name
            for name in in_code(document.read_text("utf-8"))
            if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", name)
            and name.split("/")[0] in tops
            and "/" in name
            and not (ROOT / name).exists()
        ]
        assert missing == []

    def test_every_make_target_that_is_named_exists(self, document: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
        text = document.read_text("utf-8")
        used = re.findall(r"(?:`|^\$ |^)make\s+([a-z-]+)", text, re.MULTILINE)
        assert set(used) <= targets

    def test_every_command_line_that_is_shown_is_one_that_works(self, document: Path) -> None:
        for line in re.findall(
            r"^\$ (?:.*(?:\$\(|\| ))?repo-backup (.*)$", document.read_text("utf-8"), re.MULTILINE
        ):
            command, *words = line.split()
            assert command in WORKING_COMMANDS, line
            options = {one.option(command): one for one in taken_by(command)}
            for word in words:
                if word.startswith("--"):
                    assert options[word].available, line

    def test_the_targets_of_the_readme_call_the_program(self) -> None:
        dry = ["make", "--dry-run", "--silent", "--no-print-directory"]
        for words, expected in (
            (["backup", "FROM=a", "TO=b"], 'repo-backup run --from "a" --to "b"'),
            (
                ["restore", "REPOSITORY=r", "FROM=b", "TO=c"],
                'repo-backup restore "r" --from "b" "c"',
            ),
        ):
            done = subprocess.run(
                [*dry, *words], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert expected in done.stdout

    def test_the_map_of_the_architecture_has_every_module(self) -> None:
        shown = section(text_of("ARCHITECTURE.md"), "## Modules").split("```")[1]
        modules = {path.stem for path in (ROOT / "backup").rglob("*.py")} - {"__init__"}
        assert {name for name in modules if not re.search(rf"\b{name}\b", shown)} == set()

    def test_every_decision_has_its_four_parts_and_a_line_in_the_index(self) -> None:
        pages = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
        index = " ".join(text_of("docs/adr/README.md").split())
        assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
        for page in pages:
            text = page.read_text("utf-8")
            title = text.splitlines()[0].removeprefix("# ")
            headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
            assert headings == ["Status", "Context", "Decision", "Consequences"], page.name
            assert f"[{title}]({page.name})" in index


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", outside_blocks(file.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


class TestWhatTheInterfaceIs:
    def test_the_inputs_of_the_readme_and_reference_are_those_of_the_action(self) -> None:
        declared = yaml.safe_load(text_of("action.yml"))["inputs"]
        for name in ("README.md", "docs/reference/action.md"):
            table = {in_code(row[0])[0]: row for row in rows(section(text_of(name), "## Inputs"))}
            assert set(table) == {one.name for one in INPUTS if one.action and one.available}
            for key, row in table.items():
                default = declared[key].get("default", "")
                assert row[-2] == (f"`{default}`" if default else ""), key

    def test_the_action_declares_every_input_and_says_which_do_not_work(self) -> None:
        action = yaml.safe_load(text_of("action.yml"))
        assert set(action["inputs"]) == {one.name for one in INPUTS if one.action}
        for one in INPUTS:
            if one.action:
                said = " ".join(action["inputs"][one.name]["description"].split())
                assert said.endswith("Not available yet.") != one.available, one.name
        assert set(action["outputs"]) == set(OUTPUTS)
        assert len(action["description"]) <= 125

    @pytest.mark.parametrize("command", WORKING_COMMANDS)
    def test_the_options_of_the_reference_are_those_of_the_help(self, command: Command) -> None:
        text = repo_backup(command, "--help").stdout
        described, _, missing = text.partition("Not available yet:")
        listed = set(re.findall(r"^ +(--[a-z-]+)", described, re.MULTILINE))
        cells = [row[0] for row in rows(section(text_of("docs/reference/cli.md"), f"## {command}"))]
        assert {in_code(cell)[0] for cell in cells} == listed
        not_yet = set(re.findall(r"--[a-z-]+", missing.split("Examples")[0]))
        told = section(text_of("docs/reference/cli.md"), "## Not available yet")
        lines = [one for one in told.splitlines() if one.startswith(f"With `{command}`")]
        assert len(lines) == bool(not_yet)
        line = "".join(lines)
        assert {name for name in in_code(line) if name.startswith("--")} == not_yet

    def test_commands_that_do_not_work_are_said_to_be_missing(self) -> None:
        told = section(text_of("docs/reference/cli.md"), "## Not available yet")
        line = next(one for one in told.splitlines() if one.startswith("Commands:"))
        assert set(in_code(line)) == set(COMMANDS) - set(WORKING_COMMANDS)

    @pytest.mark.parametrize(
        ("name", "heading"),
        [("README.md", "## Exit codes"), ("docs/reference/exit-codes.md", "# Exit codes")],
    )
    def test_the_exit_codes_are_those_of_the_program(self, name: str, heading: str) -> None:
        codes = [int(cells[0]) for cells in rows(section(f"\n{text_of(name)}", heading))]
        assert codes == [int(code) for code in ExitCode]

    def test_the_checks_of_the_format_are_those_of_the_program(self) -> None:
        cells = [
            row[0] for row in rows(section(text_of("docs/reference/format.md"), "#### BundleLine"))
        ]
        assert {in_code(cell)[0] for cell in cells} >= set(get_args(Check))

    def test_the_fields_of_the_json_reports_are_those_of_real_ones(self, tmp_path: Path) -> None:
        make_example(tmp_path)
        ran = repo_backup("run", "--from", "acme", "--to", "vault", "--json", cwd=tmp_path).json
        listed = repo_backup("list", "--from", "vault", "--json", cwd=tmp_path).json
        history = repo_backup("list", "widgets", "--from", "vault", "--json", cwd=tmp_path).json
        restored = repo_backup(
            "restore", "--all", "--from", "vault", "restored", "--json", cwd=tmp_path
        ).json
        lost = repo_backup(
            "restore", "widgets", "--deleted", "--from", "vault", "--json", cwd=tmp_path
        ).json
        init_bare(tmp_path / "new.git")
        pushed = repo_backup(
            "restore", "widgets", "--from", "vault", "--push", "new.git", "--json", cwd=tmp_path
        ).json
        error = repo_backup("list", "--from", "nowhere", "--json", cwd=tmp_path, check=2).json

        def told(heading: str) -> list[set[str]]:
            text = section(text_of("docs/reference/json.md"), heading)
            tables = re.split(r"^\| Field.*$", text, flags=re.MULTILINE)[1:]
            return [{name for row in rows(table) for name in in_code(row[0])} for table in tables]

        changed = next(one for one in history["history"] if one["changes"])
        assert told("## run") == [set(ran), set(ran["totals"]), set(ran["repositories"][0])]
        assert told("## list") == [set(listed["snapshots"][0]), set(listed["repositories"][0])]
        assert listed["repositories"][-1] == history["repository"]
        assert told("## list REPOSITORY") == [
            set(changed),
            set(changed["changes"][0]),
        ]
        assert told("## restore") == [
            set(restored["restored"][0]),
            set(lost["lost"][0]),
            set(pushed["push"]),
        ]
        assert told("## An error") == [set(error["error"])]

    def test_the_schemas_take_what_the_program_stores_and_nothing_less(
        self, tmp_path: Path
    ) -> None:
        make_example(tmp_path)
        stored = sorted((tmp_path / "vault").rglob("*.json.gz"))
        assert len(stored) == 3 + 4
        for path in stored:
            text = subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout
            document = json.loads(text)
            validator = _validator(document["document"])
            validator.validate(document)
            del document["snapshot_id"]
            assert not validator.is_valid(document)

    def test_every_stored_document_has_a_sound_schema(self) -> None:
        for name in STORED:
            _validator(name)


def _validator(name: str) -> Any:
    schema = json.loads(text_of(f"docs/reference/schemas/{name}.schema.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


# --- The commands of the documents -------------------------------------------------------------


def make_example(folder: Path, head: str = "on a branch") -> None:
    """Make what the documents' examples begin with: ``acme``, and ``vault`` with three snapshots.

    Args:
        folder: where both lie.
        head: whether HEAD of widgets is ``detached`` at a commit that no ref reaches in the last
            snapshot, or ``was detached`` in the second and is on a branch again that builds on it.
    """
    widgets = folder / "acme/widgets"
    git("init", "--quiet", "--initial-branch=main", widgets)
    gadgets = init_bare(folder / "acme/gadgets.git")
    update_refs(gadgets, {b"refs/heads/main": commit_chain(gadgets, 2)[-1]})

    def commit(message: str) -> None:
        git("commit", "--quiet", "--allow-empty", "--message", message, cwd=widgets)

    def back_up(snapshot_id: str) -> None:
        repo_backup(
            *("run", "--from", "acme", "--to", "vault", "--snapshot-id", snapshot_id),
            # The ids are of long ago, and a branch of three is to be lost in silence.
            *("--full-after-days", "36500", "--max-drop-percent", "100"),
            cwd=folder,
        )

    commit("Try")
    git("branch", "topic", cwd=widgets)
    git("commit", "--quiet", "--amend", "--allow-empty", "--message", "Begin", cwd=widgets)
    git("tag", "--annotate", "--message", "First", "v1", cwd=widgets)
    back_up(SNAPSHOTS[0])
    git("branch", "--quiet", "-D", "topic", cwd=widgets)
    if head == "was detached":
        git("checkout", "--quiet", "--detach", cwd=widgets)
    commit("Say more")
    back_up(SNAPSHOTS[1])
    if head == "was detached":
        git("checkout", "--quiet", "-B", "main", cwd=widgets)
    if head == "detached":
        git("checkout", "--quiet", "--detach", cwd=widgets)
    commit("Say goodbye")
    back_up(SNAPSHOTS[2])


def run_here(commands: Sequence[Shown], folder: Path) -> list[tuple[Shown, list[str]]]:
    """Run the commands beside the example's vault, which is a bucket too."""
    tools, here = folder / "tools", folder / "here"
    tools.mkdir()
    (tools / "aws").write_text(AWS)
    (tools / "aws").chmod(0o755)
    here.mkdir(exist_ok=True)
    return run_shown(commands, here, tools=tools, env={"BUCKET": str(here / "vault")})


class TestCommandsThatAreShown:
    @pytest.mark.parametrize(
        ("name", "heading", "example"),
        [
            ("README.md", "## Restoring without us", "on a branch"),
            ("docs/how-to/restore-without-repo-backup.md", "", "on a branch"),
            ("docs/how-to/restore-without-repo-backup.md", "", "detached"),
            ("docs/how-to/restore-without-repo-backup.md", "", "was detached"),
            ("docs/how-to/restore.md", "", "on a branch"),
            ("docs/how-to/repair-a-vault.md", "", "on a branch"),
            ("docs/how-to/restore-drill.md", "", "on a branch"),
            ("docs/how-to/restore-drill.md", "", "detached"),
            ("docs/reference/format.md", "## A worked restore", "detached"),
            ("docs/tutorial.md", "", "none"),
        ],
    )
    def test_they_run_and_say_what_is_shown(
        self, name: str, heading: str, example: str, tmp_path: Path
    ) -> None:
        text = section(text_of(name), heading) if heading else text_of(name)
        commands = shown_commands(text)
        assert len(commands) > 4
        if example != "none":
            (tmp_path / "here").mkdir()
            make_example(tmp_path / "here", example)
        assert_said(run_here(commands, tmp_path), any_snapshot=example == "none")

    def test_the_lines_for_jq_say_the_same_where_it_is_installed(self, tmp_path: Path) -> None:
        found = re.findall(
            r"^(zcat .*\| jq .*)$", text_of("docs/reference/format.md"), re.MULTILINE
        )
        assert len(found) == 1
        (tmp_path / "here").mkdir()
        make_example(tmp_path / "here", "detached")
        worked = section(text_of("docs/reference/format.md"), "### Find the record")
        commands = shown_commands(worked)
        if shutil.which("jq"):
            commands.append(Shown(found[0], ()))
        ran = run_here(commands, tmp_path)
        expected = next(output for one, output in ran if "| tee records" in one.command)
        assert expected[0].startswith("gadgets repositories/gadgets/")
        if shutil.which("jq"):
            assert ran[-1][1] == expected

    def test_a_section_goes_on_after_a_block_with_a_number_sign(self) -> None:
        text = "\n## One\n```console\n$ a\n# no heading\n```\nend\n## Two\nother\n"
        assert section(text, "## One").endswith("end\n")
        assert section(text, "## Two") == "other\n"

    def test_output_that_differs_is_noticed(self) -> None:
        assert agree(["a ...", "...", "z"], ["a b", "c", "d", "z"], any_snapshot=False)
        assert agree(["...", "z"], ["z"], any_snapshot=False)
        assert not agree([], ["unexpected"], any_snapshot=False)
        assert not agree(["a", "z"], ["a"], any_snapshot=False)
        assert not agree(["2 refs"], ["3 refs"], any_snapshot=False)


class TestTextFiles:
    def test_changelog_fragments_have_a_kind_and_one_paragraph(self) -> None:
        fragments = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
        for path in fragments:
            found = re.fullmatch(r"[a-z0-9][a-z0-9-]*\.([a-z]+)\.md", path.name)
            assert found, path.name
            assert found[1] in KINDS, path.name
            text = path.read_text("utf-8")
            assert re.fullmatch(r"[A-Z`](?:.+\n)+", text), f"{path.name}: one paragraph"
            assert text.endswith(".\n"), f"{path.name}: a whole sentence"
        told = {in_code(row[0])[0] for row in rows(text_of("changelog.d/README.md"))}
        assert told == KINDS

    def test_no_file_names_an_index_of_packages_or_a_path_of_somebodys_machine(self) -> None:
        indexes = [f"{host}.{end}" for host, end in (("pypi", "org"), ("pythonhosted", "org"))]
        indexes += ["--index" + "-url", "--extra-index" + "-url", "--find" + "-links"]
        machine = re.compile(r"(?<![\w.~}-])/(?:root|work|Users/\w+|home/(?!you\b)\w+)/")
        found = []
        for path in _text_files():
            text = path.read_text("utf-8")
            found += [f"{named(path)}: {word}" for word in indexes if word in text]
            found += [f"{named(path)}: {match[0]}" for match in machine.finditer(text)]
        assert found == []


def _text_files() -> Iterator[Path]:
    if (ROOT / ".git").exists():
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        files = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    else:
        files = [
            path for name in ("backup", "docs", "tests") for path in (ROOT / name).rglob("*.*")
        ]
    for path in files:
        if path.is_file() and b"\0" not in path.read_bytes():
            yield path
