"""What the command line's help says of each command, besides its options."""

from collections.abc import Mapping
from dataclasses import dataclass

from backup.config import Command


@dataclass(frozen=True, slots=True)
class Page:
    """What the help of one command says besides its options."""

    summary: str
    example: str
    arguments: str = ""
    text: str = ""


PAGES: Mapping[Command, Page] = {
    "run": Page(
        "Back up repositories into a vault.",
        "repo-backup run --from ./repositories --to ./vault\n"
        "repo-backup run --from git:./widgets --from git:./gadgets --to ./vault\n"
        "repo-backup run --from git:https://git.example/a/b.git --to s3://bucket/git",
        text="Asks every repository for its refs and stores only what is new, as git bundles. "
        "Nothing is stored of a repository that did not change.",
    ),
    "list": Page(
        "Show a vault's snapshots and repositories, or the history of one repository.",
        "repo-backup list --from ./vault\nrepo-backup list acme/widgets --from s3://bucket/git",
        arguments="[REPOSITORY]",
    ),
    "restore": Page(
        "Bring a repository back as a mirror, with every ref it had.",
        "repo-backup restore acme/widgets --from ./vault ./widgets.git\n"
        "repo-backup restore acme/widgets --from ./vault --at 2026-11-01\n"
        "repo-backup restore --all --from ./vault ./restored\n"
        "repo-backup restore acme/widgets --from ./vault --push git@host:a/b.git\n"
        "repo-backup restore --all --deleted --from ./vault\n"
        "repo-backup restore acme/widgets --deleted --from ./vault ./widgets-then.git",
        arguments="[REPOSITORY] [TARGET]",
        text="TARGET is the folder to make, ./NAME.git when left out; with --all it is the "
        "folder that gets one mirror for each repository, and so it is where REPOSITORY is a glob "
        "such as 'acme/team-*'. There a restore that broke off goes on: give the same words again. "
        "What --deleted and --rewritten find comes back as refs/lost/SNAPSHOT/heads/NAME.",
    ),
    "verify": Page(
        "Prove that a vault can give back what it promises.",
        "repo-backup verify --from ./vault\n"
        "repo-backup verify --from s3://bucket/git --depth restore --sample-percent 5",
        text="Damage is named with every snapshot that depends on it, and ends with exit code 4. "
        "The result is noted in the vault: the next run takes a new full where the newest state is "
        "damaged, and until then runs and status end with 3. Objects in an archive are counted, "
        "and are no damage.",
    ),
    "prune": Page(
        "Delete the snapshots that no rule keeps, and what nothing needs any more.",
        "repo-backup prune --from ./vault --keep-daily 30 --keep-yearly 10 --dry-run\n"
        "repo-backup prune --from s3://bucket/git --keep-within 90d --keep-yearly 10",
        text="A window keeps the last snapshot of each hour, day, week, month or year that has "
        "one, in UTC; the newest complete snapshot is always kept. Nothing that a kept snapshot "
        "needs is deleted, nor what was named in the last --grace-days. Refuses while the newest "
        "run was not a success.",
    ),
    "forget": Page(
        "Leave one repository out of a vault, with all its past.",
        "repo-backup forget acme/widgets --from ./vault --dry-run\n"
        "repo-backup forget acme/widgets --from s3://bucket/git",
        arguments="REPOSITORY",
        text="REPOSITORY is its present name, letter for letter, or its id. From then on nothing "
        "lists or restores it; prune deletes its objects when its grace is over. While its source "
        "lists it, the next run begins it anew: leave it out with --exclude.",
    ),
    "accept-damage": Page(
        "Keep what can still be restored of a damaged repository that its source has no more.",
        "repo-backup accept-damage acme/widgets --from ./vault --dry-run\n"
        "repo-backup accept-damage acme/widgets --from s3://bucket/git",
        arguments="REPOSITORY",
        text="REPOSITORY is its present name, letter for letter, or its id. What verify found "
        "damaged of its newest state makes every run partial until a new full is taken. Where none "
        "can be, this accepts what is known to be damaged now, and nothing that is found later. "
        "Nothing is deleted; list shows the mark.",
    ),
    "doctor": Page(
        "Look for mistakes in a set-up before they cost a night.",
        "repo-backup doctor --from github:acme --to s3://bucket/git",
        text="Looks at this machine, at each source and its credentials, and at the bucket and its "
        "settings. Whether the vault may be written is tried by an upload that is aborted, or a "
        "file that is removed; nothing is left. Each finding comes with what to do. Some settings "
        "of a bucket are seen only by who may look at them, which the role that backs up need not. "
        "Ends with 1 when there is an error among them.",
    ),
    "login": Page(
        "Keep the OAuth consumer of a Bitbucket workspace on this machine.",
        "repo-backup login bitbucket",
        arguments="FORGE",
        text="FORGE is bitbucket. Key and secret are asked for and not shown, tried, and kept in "
        "~/.config/repo-backup/credentials.json, which only you can read; a run takes them from "
        "there. Delete that file to log out. Other forges take a token: REPO_BACKUP_TOKEN.",
    ),
    "status": Page(
        "Tell whether a vault is fresh and whole, for a monitor or a second place.",
        "repo-backup status --from ./vault\n"
        "repo-backup status --from s3://bucket/git --max-age-hours 26 --json",
        text="Reads manifests, and what the last verifications noted. What is gone at its source, "
        "was not selected or is blocked for good is not counted, but for damage that nobody has "
        "accepted.",
    ),
}
EXIT_CODES = (
    "Exit codes: 0 everything asked for is done, 1 failed, 2 configuration, 3 partial (status: not "
    "fresh or not whole), 4 stored data is damaged, 5 internal error, 130 interrupted."
)
