"""Which snapshots stay: by the rules, and by what the store says of their times, for prune.

The store dates each object by its own clock. A manifest that it dates far from the manifest's own
time was copied here, or somebody added it, and nothing tells which. So it takes the place of no
other, and goes only when nothing can be lost with it: later snapshots cover it and have used its
windows up, and no window reaches back to the day on which it was stored either.

Where no store keeps time, nothing is deleted because of the time of an object.

What readers make the newest state of stays in any case.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from backup.commands.surveying import Survey, run_of
from backup.order import in_order
from backup.retention import Decision, Rules, Snapshot, decide
from backup.vault.inventory import Coverage, Row


def decide_by_times(
    documents: Survey,
    rules: Rules,
    *,
    made_of: Collection[str],
    grace: timedelta,
    now: datetime,
    keeps_time: bool,
) -> list[Decision]:
    """Decide about every run, the newest last.

    Of what a wrong clock has dated only that is told which goes.

    Args:
        documents: what was read.
        rules: what is asked for.
        made_of: stems of the documents that readers make the newest state of.
        grace: what the store dates further off than that is far from its own time.
        now: the time here.
        keeps_time: whether the times of objects are the store's own.
    """
    runs = documents.runs
    until = rules.reaches_back_to(now)
    coverage = Coverage(documents.inventory, runs.values())

    def takes_the_place(one: Snapshot, other: Snapshot) -> bool:
        return one.off_by <= grace and coverage.covers(runs[one.id], runs[other.id])

    snapshots = [documents.snapshot(one) for one in runs]
    current = {documents.run_by_stem[stem] for stem in made_of if stem in documents.run_by_stem}
    decisions: list[Decision] = []
    for one in decide(snapshots, rules, takes_the_place):
        stored_at = runs[one.snapshot.id].stored_at
        if not one.keep and one.snapshot.id in current:
            decisions.append(replace(one, keep=True, reason="the newest state is made of it"))
        elif one.keep or stored_at is None or one.snapshot.off_by <= grace or stored_at < until:
            decisions.append(one)
        else:
            reason = f"stored on {stored_at:%Y-%m-%d}, far from its own time"
            decisions.append(replace(one, keep=True, reason=reason))
    if keeps_time:
        kept = [runs[one.snapshot.id] for one in decisions if one.keep]
        decisions += _outlived(documents, kept, until=until)
    return in_order(decisions, lambda one: one.snapshot.place)


def _outlived(documents: Survey, kept: Iterable[Row], *, until: datetime) -> Iterator[Decision]:
    """Choose what a wrong clock has dated and no window would reach by the store's time.

    Only what a snapshot that stays covers: a repository may be known by nothing else.
    """
    for name in documents.misdated:
        stored_at, row = name.stored_at, documents.rows[name]
        if name.checkpoint is not None or stored_at is None or stored_at >= until:
            continue
        if any(documents.inventory.covers(one, row) for one in kept):
            snapshot = Snapshot(run_of(name), stored_at, complete=row.header.complete)
            reason = f"a wrong clock has dated it: it was stored on {stored_at:%Y-%m-%d}"
            yield Decision(snapshot, keep=False, reason=reason)
