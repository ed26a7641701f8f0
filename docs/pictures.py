"""Makes the README's pictures: ``python -m docs.pictures``. Needs Chromium for the second.

Both are of real runs, over an organisation of the tests' GitHub: the second night on a terminal,
and a third one's job summary. Only the fake's address is shown as github.com.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import boto3
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text

from tests.support.git import commit_chain, git, init_bare, set_head, update_refs
from tests.support.github import GitHub, Owner, Token
from tests.support.gitserver import Answer, Request
from tests.support.program import PROGRAM, environment
from tests.support.runner import TOKEN, Runner
from tests.support.s3server import REGION, S3Server, moto_server

_FOLDER = Path(__file__).parent / "pictures"
_COLUMNS, _ROWS = 116, 40
_NAMES = (
    *("api", "billing", "docs", "handbook", "infrastructure", "ios-app", "legacy-importer"),
    *("mobile", "search", "sdk-go", "sdk-python", "web", "website", "widgets"),
)
_PUSHED = ("api", "web", "widgets")
_REWRITTEN = "search"
_REFUSED = "legacy-importer"
_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px/1.5 -apple-system, "DejaVu Sans", sans-serif; color: #1f2328; margin: 24px; }}
h2 {{ font-size: 21px; border-bottom: 1px solid #d1d9e0; padding-bottom: 6px; }}
table {{ border-collapse: collapse; margin: 12px 0; }}
th, td {{ border: 1px solid #d1d9e0; padding: 5px 11px; }}
tr:nth-child(2n) td {{ background: #f6f8fa; }}
</style><body>{body}</body>"""


def main() -> int:
    """Make both pictures."""
    _FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as made,
        GitHub(Path(made) / "git") as forge,
        moto_server(Path(made) / "objects") as store,
    ):
        acme = _organisation(forge)
        store.make_bucket("acme-vault")
        _in_a_terminal(forge, store)
        _time_goes_by(forge, acme)
        (_FOLDER / "terminal.svg").write_text(_svg(_in_a_terminal(forge, store)), encoding="utf-8")
        _time_goes_by(forge, acme)
        summary = (
            MarkdownIt("commonmark")
            .enable("table")
            .render(_summary(Path(made) / "runner", forge, store))
        )
        _photograph(_as_github(summary, forge), Path(made))
    return 0


def _organisation(forge: GitHub) -> Owner:
    forge.tokens[TOKEN] = Token("jane")
    forge.owner("jane", kind="User")
    acme = forge.owner("acme")
    for name in _NAMES:
        path = init_bare(forge.root / "acme" / f"{name}.git")
        commits = commit_chain(path, 12, label=name.encode())
        update_refs(path, {b"refs/heads/main": commits[-1], b"refs/tags/v1": commits[3]})
        set_head(path, b"refs/heads/main")
        forge.repository(acme, name, private=True, has_wiki=False)
    return acme


def _time_goes_by(forge: GitHub, acme: Owner) -> None:
    """Push to some, rewrite one, and let one be refused."""
    for name in (*_PUSHED, _REWRITTEN):
        path = forge.root / acme.login / f"{name}.git"
        place = "main~2" if name == _REWRITTEN else "main"
        start = git("rev-parse", place, cwd=path).strip()
        label = f"{name} {start.hex()}".encode()
        update_refs(path, {b"refs/heads/main": commit_chain(path, 3, start=start, label=label)[-1]})

    def answer(request: Request) -> Answer | None:
        refused = request.target.startswith(f"/acme/{_REFUSED}.git")
        return Answer(403, {}, b"Write access to repository not granted.") if refused else None

    forge.answer = answer


def _in_a_terminal(forge: GitHub, store: S3Server) -> str:
    """Run the command line in a terminal, and give what stands on it at the end, in colours."""
    command = "repo-backup run --from github:acme --to s3://acme-vault/git"
    env = environment(store.environment()) | {
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "AWS_REGION": REGION,
        "REPO_BACKUP_SERVER_URL": forge.url,
        "REPO_BACKUP_TOKEN": TOKEN,
        "TERM": "xterm-256color",
        "COLUMNS": str(_COLUMNS),
        "LINES": str(_ROWS),
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *command.split()[1:]], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        said = b"".join(_pieces(ours))
    os.close(ours)
    return f"$ {command}\n{_screen(_as_github(said.decode(), forge))}"


def _pieces(terminal: int) -> Iterator[bytes]:
    # Reading fails when nobody is at the other end any more.
    with suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            yield piece


def _as_github(text: str, forge: GitHub) -> str:
    place = forge.url.removeprefix("http://")
    return (
        text.replace(forge.url, "https://github.com")
        .replace(place.replace(":", "-"), "github.com")
        .replace(place, "github.com")
    )


def _screen(said: str) -> str:
    """Follow the cursor as far as rich moves it: back, up, and over what it erases."""
    lines, row = [""], 0
    for part in re.split(r"(\r|\n|\x1b\[\d*[AK]|\x1b\[\?25[lh])", said):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif re.fullmatch(r"\x1b\[\d*A", part):
            row = max(row - int(part[2:-1] or 1), 0)
        elif re.fullmatch(r"\x1b\[\d*K", part):
            lines[row] = ""
        elif part != "\r" and not part.startswith("\x1b[?25"):
            lines[row] += part
    return "\n".join(lines).rstrip()


def _svg(screen: str) -> str:
    console = Console(record=True, width=_COLUMNS, file=StringIO(), color_system="truecolor")
    console.print(Text.from_ansi(screen), overflow="fold")
    svg = console.export_svg(title="repo-backup", unique_id="terminal")
    # No font is fetched from anywhere.
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)


def _summary(folder: Path, forge: GitHub, store: S3Server) -> str:
    sts = boto3.client(
        "sts",
        endpoint_url=store.endpoint_url,
        region_name=REGION,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
    )
    role = sts.assume_role_with_web_identity(
        RoleArn="arn:aws:iam::123456789012:role/backup",
        RoleSessionName="nightly",
        WebIdentityToken="a token that GitHub signed",
    )["Credentials"]
    runner = Runner(folder, forge.url)
    runner.more = {
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
        "AWS_SESSION_TOKEN": role["SessionToken"],
    }
    return runner.step(bucket="acme-vault", prefix="git", region=REGION).summary


def _photograph(body: str, folder: Path) -> None:
    page = folder / "summary.html"
    page.write_text(_PAGE.format(body=body), encoding="utf-8")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("the picture of the summary needs Chromium")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    subprocess.run(
        [
            *(chromium, *quiet, f"--user-data-dir={folder / 'profile'}", "--no-first-run"),
            *("--window-size=1060,600", f"--screenshot={_FOLDER / 'summary.png'}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    sys.exit(main())
