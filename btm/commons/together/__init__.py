"""Several volunteers for one expert: rounds of local training, averaged by tokens (DiLoCo).

seats      who takes part: a claim of a seat each
rounds     what was contributed, which ends of rounds are valid, when one is due
points     the weights after each round, computed from what was contributed
training   the work of one volunteer: `btm commons train`
"""
