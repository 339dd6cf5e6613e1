"""A cycle that is watched from another process than its driver's."""

import json

import pytest

from btm.config.schema import Config
from btm.launch import attach
from btm.launch.records import Cycle, Records


@pytest.mark.parametrize("counts", [{"done": 1}, {"cancelled": 1}])
def test_a_driver_that_ends_while_it_is_looked_at_is_not_replaced(tmp_path, monkeypatch, counts):
    """Its last state is read and is not final; before the next look it has ended as it should."""
    monkeypatch.setattr(attach, "_STARTS_WITHIN", 0.0)
    records, cycle = Records(tmp_path), Cycle("c" * 12, Config(), [])
    state = {"cycle": cycle.id, "finished": False, "counts": {"submitted": 1}, "jobs": {}}
    records.root.mkdir()
    records.files.state.write_text(json.dumps(state))
    seen = []
    with attach.sole_driver(records) as driver:

        def show(found):
            seen.append(found["finished"])
            if len(seen) == 1:
                last = state | {"finished": True, "counts": counts}
                records.files.state.write_text(json.dumps(last))
                driver.release()

        assert attach.watch(records, cycle, show)["counts"] == counts
    assert seen == [False, True]
    assert not records.files.driver_log.exists()
