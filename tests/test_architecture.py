"""The layers hold: what may import what, who touches the environment, and what nobody may do.

The house (top to bottom): doors; commands; capture, git and the adapters (sources, destinations,
report); plan, vault and refs, which are pure; model, errors, stopping and counting.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from backup import errors
from backup.errors import BackupError, ExitCode

HOUSE = Path(__file__).parent.parent
BACKUP = HOUSE / "backup"
MODULES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(BACKUP.rglob("*.py"))
}

# Each may import itself, what stands here, and `backup` for the version.
GROUND = (
    "answers",
    "connections",
    "model",
    "errors",
    "keys",
    "limits",
    "machine",
    "order",
    "secret",
    "stopping",
    "counting",
    "results",
    "times",
    "urls",
    "workers",
)
PURE = (*GROUND, "refs", "plan", "vault", "retention")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "answers": ("limits", "connections", "stopping"),
    "connections": (),
    "model": ("secret",),
    "errors": ("secret",),
    "secret": (),
    "limits": (),
    "machine": ("errors",),
    "order": (),
    "stopping": ("errors",),
    "times": (),
    "workers": ("machine",),
    "urls": ("secret",),
    "counting": (),
    "keys": (),
    "results": ("model", "errors"),
    "refs": ("model",),
    "vault": (*GROUND, "refs"),
    "plan": PURE,
    "retention": ("order",),
    "git": (*GROUND, "refs"),
    "sources": GROUND,
    "destinations": GROUND,
    "report": PURE,
    "recording": PURE,
    "capture": (*PURE, "git", "recording"),
    "config": GROUND,
    "commands": (*PURE, "config", "git", "capture", "sources", "destinations"),
    "doors": (*PURE, "config", "commands", "git", "sources", "destinations", "report", "doors"),
}

# Where a library may be imported; everywhere else it may not.
HOME_OF: dict[str, tuple[str, ...]] = {
    "rich": ("backup.report.terminal", "backup.doors.cli"),
    "click": ("backup.doors.words",),
    "pydantic": (
        "backup.config",
        "backup.vault.documents",
        "backup.vault.documents_of_exports",
        "backup.vault.documents_of_files",
        "backup.vault.documents_of_listings",
        "backup.vault.documents_of_prune",
        "backup.vault.fields",
    ),
    "pydantic_core": ("backup.config", "backup.vault.documents", "backup.vault.packing"),
    "boto3": ("backup.destinations.s3",),
    "botocore": ("backup.destinations.s3",),
    "github": ("backup.sources.github", "backup.metadata.github"),
    "gitlab": ("backup.sources.gitlab", "backup.metadata.gitlab"),
    "urllib3": (
        "backup.urls",
        "backup.connections",
        "backup.git.http",
    ),
    "tenacity": ("backup.commands.retrying",),
    "git": ("backup.git.command",),
    "dulwich": (),
    "requests": (
        "backup.doors.alerts",
        "backup.sources.one_server",
        "backup.sources.gitlab",
        "backup.sources.bitbucket",
    ),
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[str]:
    """Name everything that a module imports, wherever in it; modules of ours in full."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            source = node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in MODULES else source


def part(module: str) -> str:
    """Name the floor that a module is on: backup.git.pack is on git."""
    return [*module.split("."), ""][1]


def ours(module: str) -> set[str]:
    found = {name for name in imports(module) if name == "backup" or name.startswith("backup.")}
    return found - {"backup", module}


def below(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def test_the_house_is_read() -> None:
    assert "backup.commands.run" in MODULES
    assert "backup.vault.layout" in ours("backup.vault.manifest")
    assert {part(module) for module in MODULES} - {""} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [name for name in MODULES if part(name)])
def test_imports_point_one_way(module: str) -> None:
    allowed = {part(module), *MAY_IMPORT[part(module)]}
    wrong = {name for name in ours(module) if part(name) not in allowed}
    assert wrong == set()


# Helpers that adapters of one kind share.
SHARED = {
    "backup.report.words",
    "backup.sources.confined",
    "backup.sources.items",
    "backup.sources.one_server",
}


@pytest.mark.parametrize("folder", ["sources", "destinations", "report", "metadata"])
def test_adapters_never_import_each_other(folder: str) -> None:
    adapters = {name for name in MODULES if below(name, f"backup.{folder}")}
    wrong = {
        (one, other)
        for one in adapters
        for other in ours(one) & adapters - SHARED
        if adapter(one) != adapter(other)
    }
    assert wrong == set()


def adapter(module: str) -> str:
    """Name the adapter that a module belongs to; one adapter may have several modules."""
    return ".".join(module.split(".")[:3])


def test_commands_do_not_know_what_people_are_shown() -> None:
    commands = [name for name in MODULES if part(name) in {"commands", "capture"}]
    wrong = {(one, other) for one in commands for other in ours(one) if part(other) == "report"}
    assert wrong == set()


def test_nothing_imports_itself_in_a_circle() -> None:
    edges = {module: ours(module) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for other in edges.get(module, set()):
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("library", HOME_OF)
def test_a_library_is_imported_only_where_it_lives(library: str) -> None:
    users = {
        module for module in MODULES for name in imports(module) if name.split(".")[0] == library
    }
    wrong = {user for user in users if not any(below(user, home) for home in HOME_OF[library])}
    assert wrong == set()


def test_the_core_types_import_the_standard_library_alone() -> None:
    for module in ("backup.secret", "backup.counting"):
        assert ours(module) == set()
    for module in ("backup.model", "backup.errors"):
        assert ours(module) == {"backup.secret"}


# --- The environment ---------------------------------------------------------------------------


def uses(module: str, owner: str, names: set[str]) -> list[str]:
    """Give the source of every use of ``owner.name`` in a module."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == owner
        and node.attr in names
    ]


def test_only_the_doors_and_two_lines_for_programs_read_the_environment() -> None:
    reads = {
        module: uses(module, "os", {"environ", "environb", "getenv", "putenv", "getenvb"})
        for module in MODULES
        if part(module) != "doors"
    }
    assert {module: found for module, found in reads.items() if found} == {
        "backup.git.command": ["os.environ"],
        # Which temporary folder was named, that Python may not use.
        "backup.git.work": ["os.environ"],
    }
    line = next(
        line
        for line in MODULES["backup.git.command"].read_text().splitlines()
        if "environ." in line
    )
    assert 'os.environ.get("PATH"' in line


def test_nobody_but_the_doors_prints_or_ends_the_process() -> None:
    for module in MODULES:
        called = {
            ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)
        }
        if part(module) != "doors":
            assert called.isdisjoint({"print", "input", "sys.exit", "os._exit", "exit"}), module


def test_nothing_goes_through_a_shell() -> None:
    for module in MODULES:
        assert not uses(module, "os", {"system", "popen"}), module
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                raise AssertionError(f"{module} runs a shell")


def test_times_are_aware() -> None:
    for module in MODULES:
        assert not uses(module, "datetime", {"utcnow", "utcfromtimestamp", "today"}), module


# --- Keys --------------------------------------------------------------------------------------

TAKES_KEYS = {"Key", "Layout", "list", "children", "open", "stat", "writer", "put_if_absent", "key"}


def joined_keys(module: str) -> list[str]:
    """Find text with a slash that is put together where a key or a prefix is due."""
    found = []
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        if name not in TAKES_KEYS:
            continue
        for argument in node.args[:1]:
            text = ast.unparse(argument)
            if isinstance(argument, ast.JoinedStr | ast.BinOp) and "/" in text:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_the_layout_alone_joins_parts_of_keys() -> None:
    # The destinations know keys as names of files, and nothing of what they mean.
    modules = [
        name for name in MODULES if name != "backup.vault.layout" and part(name) != "destinations"
    ]
    assert [place for module in modules for place in joined_keys(module)] == []


def test_the_names_of_the_format_stand_in_the_layout_alone() -> None:
    endings = re.compile(
        r"\.bundle|\.record|\.json\.gz|\.jsonl|(?:repositories|lfs|assets|drills)/"
    )
    found = []
    for module in MODULES:
        # A forge's addresses have words of their own.
        if module == "backup.vault.layout" or part(module) == "sources":
            continue
        documents = {id(one) for one in _docstrings(tree(module))}
        found += [
            f"{module}:{node.lineno}: {node.value!r}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents
            and endings.search(node.value)
        ]
    assert found == []


def _docstrings(module: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


# --- Errors ------------------------------------------------------------------------------------


def all_errors(above: type[BackupError] = BackupError) -> Iterator[type[BackupError]]:
    yield above
    for one in above.__subclasses__():
        yield from all_errors(one)


def test_exit_codes_are_unique_and_those_of_the_interface() -> None:
    members = ExitCode.__members__
    assert len({code.value for code in members.values()}) == len(members)
    assert {name: code.value for name, code in members.items()} == {
        "DONE": 0,
        "FAILED": 1,
        "CONFIGURATION": 2,
        "PARTIAL": 3,
        "DAMAGED": 4,
        "BUG": 5,
        "INTERRUPTED": 130,
    }


def test_every_error_has_an_exit_code_that_says_so() -> None:
    for error in all_errors():
        assert isinstance(error.exit_code, ExitCode)
        assert error.exit_code not in {ExitCode.DONE, ExitCode.BUG}
        assert error.__doc__
    codes = {error.__name__: error.exit_code for error in all_errors()}
    assert codes["ConfigError"] == codes["NotYetAvailable"] == ExitCode.CONFIGURATION
    assert codes["IntegrityError"] == codes["BrokenChain"] == ExitCode.DAMAGED
    assert codes["PartialFailure"] == codes["DeadlineReached"] == ExitCode.PARTIAL
    assert codes["Interrupted"] == ExitCode.INTERRUPTED


def test_only_what_may_pass_is_retryable() -> None:
    ours = {error for error in all_errors() if error.__module__ == errors.__name__}
    retryable = {error.__name__ for error in ours if error.retryable}
    assert retryable == {
        "RateLimited",
        "HostUnreachable",
        "LinkExpired",
        "TruncatedResponse",
        "TruncatedPack",
        "IncompleteWrite",
        "DestinationUnreachable",
        "MachineLimitReached",
    }


def test_errors_stand_in_one_place() -> None:
    # git's own failure knows a program, and an adapter's its store; all others are met by people.
    elsewhere = {error for error in all_errors() if error.__module__ != errors.__name__}
    assert {error.__module__ for error in elsewhere if error.__module__.startswith("backup.")} <= {
        "backup.git.command",
        "backup.destinations.s3.failures",
    }


# --- The house itself --------------------------------------------------------------------------

MAX_LINES = 700


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long_to_be_read(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


def test_every_module_says_its_one_job() -> None:
    silent = [
        module
        for module in MODULES
        if MODULES[module].read_text().strip() and not ast.get_docstring(tree(module))
    ]
    assert silent == []


def test_every_path_that_the_map_names_exists() -> None:
    page = HOUSE / "ARCHITECTURE.md"
    text = page.read_text() if page.exists() else ""
    named = set(
        re.findall(r"`((?:backup|tests|docs|benchmarks)/[\w./-]*|[\w-]+\.(?:py|md|toml))`", text)
    )
    missing = sorted(name for name in named if not _exists(name))
    assert missing == []


def _exists(name: str) -> bool:
    return (HOUSE / name).exists() or (BACKUP / name).exists()


@pytest.mark.parametrize(
    "lock", sorted((HOUSE / "requirements").glob("*.txt")), ids=lambda p: p.name
)
def test_a_lock_names_no_index_and_hashes_everything(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    assert "://" not in text
    assert not re.search(r"^\s*(?:-i|--[a-gi-z])", text, re.MULTILINE), "an option of pip"
    assert not re.search(r"@|\b[a-z0-9-]+\.(?:org|com|net|io|dev|internal|local)\b", text)
    pinned = re.findall(r"^([A-Za-z0-9][\w.-]*)==", text, re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(pinned) == len(blocks) > 0
    assert all("--hash=sha256:" in block for block in blocks)
