"""The keeper of a claim: a store that does not answer is asked again, until the claim is lost."""

import pytest
from people import LEASE, Town

from btm.commons import claims, keeping
from btm.commons.claims import Holding, LostClaimError
from btm.commons.keeping import Keeper
from btm.errors import UserError


def test_the_end_of_a_training_waits_for_a_store_that_is_away(monkeypatch):
    town, said = Town(), []
    ann, ben = town.volunteer("ann"), town.volunteer("ben")
    holding = Holding(ann, claims.take(ann, "law", 1000, 1.0))
    keeper = Keeper(holding, 1e9, said.append)

    def away(request):
        raise UserError("503 Slow Down")

    def pass_time(seconds):
        town.clock.now += seconds
        town.place.fault = away if town.clock.now < begun + 60 else lambda request: None

    monkeypatch.setattr(keeping.time, "sleep", pass_time)
    begun = town.clock.now
    pass_time(0)
    keeper.require_held()
    assert town.clock.now == begun + 60
    assert len(said) == 1 and "503 Slow Down" in said[0]

    town.clock.now += LEASE
    claims.take(ben, "law", 1000, 1.0)
    begun = town.clock.now
    pass_time(0)
    with pytest.raises(LostClaimError, match="ben"):
        keeper.require_held()
