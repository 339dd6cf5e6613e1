"""Fair shares of the engine: who may wait, and who of those that wait comes next.

An owner is an HTTP request, with all its answers: by their addresses clients of one machine, or
behind one proxy, could not be told apart. Places go to whoever has the fewest answers at work, so
that in the end all have alike or as many as they want (max-min fairness): a request for 64 answers
does not hold up another's for one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from btm.serve.answer import Answer


def in_turn(waiting: Sequence[Answer], taken: Iterable[Answer]) -> list[Answer]:
    """Order answers that wait by the answers that their owners have at work, those before it in
    the queue counted too; among equals the first of the queue comes first.
    """
    before = Counter(answer.request.owner for answer in taken)
    ranked = []
    for place, answer in enumerate(waiting):
        ranked.append((before[answer.request.owner], place, answer))
        before[answer.request.owner] += 1
    return [answer for *_, answer in sorted(ranked, key=lambda each: each[:2])]


def without(waiting: Sequence[Answer], chosen: Sequence[Answer]) -> list[Answer]:
    """Take the `chosen` out of the queue; what else their owners have there goes behind all others
    (round-robin).
    """
    numbers = {answer.number for answer in chosen}
    owners = {answer.request.owner for answer in chosen}
    left = [answer for answer in waiting if answer.number not in numbers]
    return sorted(left, key=lambda answer: answer.request.owner in owners)


def may_wait(owner: str, waiting: Sequence[Answer], limit: int) -> bool:
    """Tell whether one more answer of an owner may wait, where `limit` owners may, with twice as
    many answers in all.

    So an owner of many answers does not fill the queue alone, and once the first has found a place
    the others follow it.
    """
    owners = {answer.request.owner for answer in waiting}
    return (owner in owners or len(owners) < limit) and len(waiting) < 2 * limit
