"""A short soak with everything that goes wrong; ``make soak`` lives through 300 nights."""

from pathlib import Path

import pytest

from tests.soak.nights import Plan, soak
from tests.support.s3server import S3Server

# Seeds with which something of everything comes about in a few nights.
FOLDER = Plan(10, 8, 3, "folder", keep_going=True, intensity=1.5, samples=(2, 1, 1))
BUCKET = Plan(6, 6, 21, "bucket", keep_going=True, intensity=2.0, samples=(1, 1, 1))


@pytest.mark.parametrize("plan", [FOLDER, BUCKET], ids=["folder", "bucket with versions"])
def test_whatever_goes_wrong_what_is_held_comes_back_and_no_green_light_is_false(
    plan: Plan, tmp_path: Path, moto_http: S3Server
) -> None:
    lines: list[str] = []
    figures = soak(plan, tmp_path, say=lines.append, server=moto_http)
    assert not figures.lies, "\n".join(lines)
    for name in ("captured", "unchanged", "green states", "verifications", "prunes", "damage done"):
        assert figures.counts[name], (name, "\n".join(lines))
    assert figures.counts["restores compared"] >= plan.nights
