"""The real program, given every wrong option once: one clear line, exit 2, nothing made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backup.config import COMMANDS, INPUTS, WORKING_COMMANDS, Command, Input, taken_by
from tests.support.program import Completed, environment, repo_backup
from tests.unit.test_config import BY_NAME, COMPANIONS, EXAMPLES, PEM, SENTINEL

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Give a folder with ./repositories, which holds no repository, and an empty ./vault."""
    (tmp_path / "repositories").mkdir()
    (tmp_path / "vault").mkdir()
    return tmp_path


def refused(done: Completed, here: Path) -> str:
    """Check the form of a refusal and return its line without the program's name."""
    lines = done.stderr.splitlines()
    assert done.code == 2, done
    assert done.stdout == ""
    assert lines[0].startswith("repo-backup: error: "), lines
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), lines
    assert sorted(path.name for path in here.rglob("*")) == ["repositories", "vault"]
    return lines[0].removeprefix("repo-backup: error: ")


def places_of(command: Command) -> dict[str, str]:
    """Give what a command needs beside the input that is wrong."""
    given = {}
    for one in taken_by(command):
        if one.name == "from":
            given[one.option(command)] = "repositories"
        if one.name == "destination":
            given[one.option(command)] = "vault"
    return given


def words_of(options: dict[str, str]) -> list[str]:
    return [word for option, text in options.items() if text for word in (option, text)]


TYPED = [one for one in INPUTS if one.commands and not one.secret and not one.is_flag]
ENVIRONMENT_ONLY = [one for one in INPUTS if one.commands and (one.secret or one.is_flag)]
EVERYWHERE = [one for one in INPUTS if one.commands]


def bad_text(one: Input) -> str:
    # The first that an argument of a process can carry.
    return next(text for text in EXAMPLES[one.name].refused if "\0" not in text)


@pytest.mark.parametrize("one", TYPED, ids=lambda one: one.name)
def test_a_bad_value_of_an_option(one: Input, here: Path) -> None:
    command, text = one.commands[0], bad_text(one)
    option = one.option(command)
    words = words_of({**places_of(command), option: text})
    line = refused(repo_backup(command, *words, cwd=here, check=None), here)
    assert line.startswith(f"{option}: {text!r} ")
    assert "give " in line


@pytest.mark.parametrize("one", EVERYWHERE, ids=lambda one: one.name)
def test_a_bad_value_of_a_variable(one: Input, here: Path) -> None:
    command, text = one.commands[-1], bad_text(one)
    variable = one.variable(command)
    options = {**places_of(command), one.option(command): ""}
    done = repo_backup(command, *words_of(options), env={variable: text}, cwd=here, check=None)
    line = refused(done, here)
    assert line.startswith(f"{variable}: {'the value (not shown)' if one.secret else repr(text)} ")
    assert SENTINEL not in done.stderr


@pytest.mark.parametrize("one", [one for one in INPUTS if one.action], ids=lambda one: one.name)
def test_a_bad_value_of_an_input_of_the_action(one: Input, here: Path) -> None:
    done = act({f"INPUT_{one.name.upper()}": bad_text(one)}, here)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"::error::{one.name}: ")
    assert SENTINEL not in done.stdout + done.stderr
    assert done.stdout == ""


def act(inputs: dict[str, str], here: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, CHECKOUT / "entrypoint.py", *words],
        env=environment(inputs),
        cwd=here,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"OWNER": "acme", "TOKEN": "x", "BUCKET": "vault", "METADATA": "all"}, "metadata is"),
        ({"OWNER": "acme", "TOKEN": "x", "BUCKET": "vault", "COMMAND": "plan"}, "command: "),
    ],
)
def test_the_action_refuses_honestly_what_does_not_work_yet(
    inputs: dict[str, str], words: str, here: Path
) -> None:
    done = act({f"INPUT_{name}": value for name, value in inputs.items()}, here)
    assert done.returncode == 2
    assert done.stderr.startswith(f"::error::{words}")
    assert "available yet" in done.stderr


def test_an_input_of_the_action_cannot_give_a_command_to_the_runner(here: Path) -> None:
    done = act({"INPUT_OWNER": "x\n::set-output name=a::b"}, here)
    assert [line.split("::")[1] for line in done.stderr.splitlines()] == ["error"]


def test_with_words_the_entrypoint_is_the_command_line(here: Path) -> None:
    assert act({}, here, "--version").stdout.startswith("repo-backup ")
    done = act({}, here, "run", "--check", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("repo-backup: error: --check: 'x' is not accepted")


def test_an_empty_word_is_no_command_line(here: Path) -> None:
    assert act({}, here, "").stderr.startswith("::error::")


@pytest.mark.parametrize(
    "one", [one for one in taken_by("run") if not one.available], ids=lambda one: one.name
)
def test_an_option_that_does_not_work_yet(one: Input, here: Path) -> None:
    text = next(text for text in EXAMPLES[one.name].accepted if text != one.default)
    places = {**places_of("run")}
    env = {}
    for name, value in [(one.name, text), *COMPANIONS.get(one.name, {}).items()]:
        other = BY_NAME[name.replace("_", "-")]
        if other.secret:
            env[other.variable("run")] = value
        elif not other.is_flag:
            places[other.option("run")] = value
    flag = f"--{'no-' if one.default == 'true' else ''}{one.name}"
    words = [*words_of(places), *([flag] if one.is_flag else [])]
    line = refused(repo_backup("run", *words, env=env, cwd=here, check=None), here)
    label = one.variable("run") if one.secret else flag if one.is_flag else one.option("run")
    assert line.endswith(" is not available yet")
    assert one.name in COMPANIONS or line.startswith(f"{label} ")


def test_no_text_of_others_is_a_command_to_the_runner_of_a_step(here: Path) -> None:
    """The older form counts wherever it stands in a line."""
    words = ("run", "--from", "folder-##[add-mask]x", "--to", "vault", "--json")
    done = repo_backup(*words, cwd=here, check=2)
    assert "##[" not in done.stdout + done.stderr
    assert "folder-##[add-mask]x" in done.json["error"]["message"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WORKING_COMMANDS])
def test_a_command_that_does_not_work_yet(command: Command, here: Path) -> None:
    line = refused(repo_backup(command, cwd=here, check=None), here)
    assert line == f"{command} is not available yet"


NO_SOURCE = (
    "--from is missing: give github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE, "
    "a folder of repositories, git:URL or git:PATH"
)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "a command is missing"),
        ("backup", "there is no command 'backup'"),
        ("rum", "there is no command 'rum'"),
        ("--from repositories", "there is no option --from"),
        (
            "run",
            NO_SOURCE,
        ),
        (
            "run --from repositories",
            "--to is missing: give a folder to back up to, or s3://BUCKET/PREFIX",
        ),
        (
            "run --from= --to=",
            NO_SOURCE,
        ),
        (
            "run --to vault",
            NO_SOURCE,
        ),
        ("run --form repositories --to vault", "run has no option --form"),
        ("run -x --from repositories --to vault", "run has no option -x"),
        ("run --from repositories --to", "--to is given without a value"),
        ("run --to --from repositories", "--to is given without a value"),
        ("run --from repositories --to vault extra", "unexpected argument 'extra'"),
        ("run --from repositories --to vault --to other", "--to is given 2 times: give it once"),
        ("run --from repositories --to vault --dry-run=yes", "--dry-run takes no value"),
        ("run --from repositories --to vault --keep-daily 3", "run has no option --keep-daily"),
        ("run --from repositories --destination vault", "run has no option --destination"),
        ("list", "--from is missing: give the folder of a vault, or s3://BUCKET/PREFIX"),
        ("list --from nowhere", "--from: 'nowhere' does not exist: give the folder of a vault"),
        ("list --from vault a/b c", "unexpected argument 'c'"),
        (
            "list --from vault ../b",
            ("REPOSITORY: '../b' is not accepted: give OWNER/NAME as list shows it"),
        ),
        ("restore --from vault", "a REPOSITORY or --all is missing"),
        ("restore a/b", "--from is missing: give the folder of a vault, or s3://BUCKET/PREFIX"),
        ("restore a/b --from vault c d", "unexpected argument 'd'"),
        (
            "restore a/b --all --from vault c",
            ("REPOSITORY ('a/b') and --all exclude each other: give one of them"),
        ),
        (
            "restore --all --from vault",
            ("TARGET is missing: give the folder to restore every repository into"),
        ),
        (
            "restore a/b --from vault vault/b.git",
            ("TARGET: 'vault/b.git' lies in the vault: give a folder apart from it"),
        ),
        (
            "run --from . --to vault",
            ("--to: 'vault' lies in the source '.': give a folder apart from it"),
        ),
        (
            "run --from repositories --to repositories",
            ("--to: 'repositories' is the source 'repositories': give a folder apart from it"),
        ),
        (
            "run --from vault --to .",
            ("--to: '.' holds the source 'vault': give a folder apart from it"),
        ),
    ],
)
def test_words_that_belong_nowhere(words: str, line: str, here: Path) -> None:
    assert refused(repo_backup(*words.split(), cwd=here, check=None), here) == line


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("rum", "did you mean run?"),
        ("backup-everything", "repo-backup --help lists the commands"),
        ("run --form x", "did you mean --from?"),
        ("run --max-chain-lenght 3", "did you mean --max-chain-length?"),
        ("run --zzz", "repo-backup run --help lists the options"),
        ("run --keep-daily 3", "it belongs to prune"),
        ("run --destination vault", "here it is --to"),
        ("list --destination vault", "here it is --from"),
        (
            "run repositories --from repositories --to other",
            ("sources are given with --from, the vault with --to"),
        ),
    ],
)
def test_a_hint_leads_on(words: str, hint: str, here: Path) -> None:
    done = repo_backup(*words.split(), cwd=here, check=2)
    assert done.stderr.splitlines()[1:] == [f"hint: {hint}"]


@pytest.mark.parametrize("name", ["token", "app-private-key", "oauth-secret"])
@pytest.mark.parametrize("form", ["run --{} {}", "run --{}={}", "--{} {} run", "list --{} {}"])
def test_a_secret_is_never_taken_from_the_command_line(name: str, form: str, here: Path) -> None:
    done = repo_backup(*form.format(name, SENTINEL).split(), cwd=here, check=None)
    refused(done, here)
    variable = f"REPO_BACKUP_{name.upper().replace('-', '_')}"
    assert done.stderr.endswith(f"hint: give it in the environment variable {variable}\n")
    assert SENTINEL not in done.stderr


@pytest.mark.parametrize(
    "source",
    [
        f"git:https://jane:{SENTINEL}@host.example/a.git",
        f"git:https://{SENTINEL}@host.example/a.git",
        f"git:ssh://git:{SENTINEL}@host.example/a.git",
        f"https://jane:{SENTINEL}@host.example/a.git",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_printed(source: str, here: Path) -> None:
    done = repo_backup("run", "--from", source, "--to", "vault", cwd=here, check=None)
    assert refused(done, here).startswith("--from: the value (not shown) ")
    assert SENTINEL not in done.stderr


def test_the_private_key_is_not_printed_when_it_is_not_available(here: Path) -> None:
    env = {"REPO_BACKUP_APP_PRIVATE_KEY": PEM, "REPO_BACKUP_APP_ID": "1"}
    done = repo_backup("run", *words_of(places_of("run")), env=env, cwd=here, check=None)
    refused(done, here)
    assert "MII" not in done.stderr


def test_what_is_typed_wins_over_the_variable(here: Path) -> None:
    done = repo_backup(
        "run", "--check", "typed", env={"REPO_BACKUP_CHECK": "variable"}, cwd=here, check=2
    )
    assert "--check: 'typed'" in done.stderr


def test_variables_of_other_commands_do_not_matter(here: Path) -> None:
    done = repo_backup("list", env={"REPO_BACKUP_CHECK": "wrong"}, cwd=here, check=2)
    assert "--from is missing" in done.stderr


@pytest.mark.parametrize("json", [["--json"], []])
def test_with_json_an_error_is_a_document_too(json: list[str], here: Path) -> None:
    env = {} if json else {"REPO_BACKUP_JSON": "true"}
    done = repo_backup("run", "--check", "x", *json, env=env, cwd=here, check=2)
    assert done.json == {
        "error": {
            "message": "--check: 'x' is not accepted: give pack or trailer",
            "hint": "",
            "exit_code": 2,
        }
    }
    assert done.stderr == (
        "repo-backup: error: --check: 'x' is not accepted: give pack or trailer\n"
    )


def test_a_name_that_is_not_utf_8_is_printed_escaped(here: Path) -> None:
    name = os.fsdecode(b"no\xffwhere")
    line = refused(repo_backup("run", "--from", name, cwd=here, check=None), here)
    assert line.startswith("--from: 'no\\udcffwhere' does not exist")


def test_an_error_is_not_coloured_and_has_no_control_characters(here: Path) -> None:
    done = repo_backup("list", "--from", "vault", "a", "b\x1b[31m", cwd=here, check=2)
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_goes_to_stdout_and_ends_well(words: list[str], here: Path) -> None:
    done = repo_backup(*words, cwd=here)
    assert done.stdout.startswith("Usage: repo-backup ")
    assert done.stderr == ""
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("command", WORKING_COMMANDS)
def test_help_shows_an_example_and_every_option_that_works(command: Command, here: Path) -> None:
    shown = repo_backup(command, "--help", cwd=here).stdout
    usable, _, rest = shown.partition("Not available yet:")
    for one in taken_by(command):
        option = one.option(command)
        assert one.secret or option in (usable if one.available else rest)
        assert not one.secret or option not in shown.replace("--token", "")
    assert f"  $ repo-backup {command} " in shown


def test_help_into_a_pipe_that_nobody_reads_ends_quietly(here: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, CHECKOUT / "entrypoint.py", "run", "--help"],
            env=environment(),
            cwd=here,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_cannot_be_written_is_an_error(here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, CHECKOUT / "entrypoint.py", "--version"],
            env=environment(),
            cwd=here,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == (
        b"repo-backup: error: standard output cannot be written: No space left on device\n"
    )


@pytest.mark.parametrize("command", ["run", "doctor", "list"])
def test_a_bucket_without_credentials_and_region_is_an_error_of_the_set_up(
    command: str, here: Path
) -> None:
    """Nothing is asked: without credentials no request can be signed."""
    (here / "own").mkdir()
    words = {
        "run": ("--from", "own", "--to", "s3://nobucket-xyz/git"),
        "doctor": ("--from", "own", "--to", "s3://nobucket-xyz/git"),
        "list": ("--from", "s3://nobucket-xyz/git"),
    }
    env = {"AWS_EC2_METADATA_DISABLED": "true"}
    done = repo_backup(command, *words[command], env=env, cwd=here, check=None)
    assert done.code == (1 if command == "doctor" else 2), done.stderr
    assert "there are no AWS credentials" in done.stderr + done.stdout
    assert "AWS_ACCESS_KEY_ID" in done.stderr + done.stdout
