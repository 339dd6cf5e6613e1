"""The bench of `btm report`: the size that docs/report.md promises of a large forest."""

from dataclasses import asdict

import numpy as np

from bench import report
from btm.report import html


def test_a_report_of_a_hundred_experts_on_a_hundred_domains_is_under_2_mb():
    made = report.facts(100, 100, np.random.default_rng(0))
    page = html.page("synthetic", asdict(made)).encode()
    assert (
        len(made.evaluation.domains) == len(made.evaluation.members) == len(made.cycle.jobs) == 100
    )
    assert 1_000_000 < len(page) < 2_000_000
