"""Many simulated nights of many repositories with everything that goes wrong, and a judge.

``python -m tests.soak`` runs it (``make soak``), ``tests/faults/test_soak.py`` a short form. The
modules: `world` has the repositories and what people do to them, `forge` serves a part of them over
HTTP, `stores` has the vault's store and how it is damaged, `times` the simulated clock, `troubles`
what goes wrong tonight, `judge` what must be true afterwards, `nights` the loop, `figures` the sum.
"""
