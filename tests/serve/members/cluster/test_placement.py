"""Which machine is chosen, and for which model first."""

from dataclasses import replace

from btm.forest import find_model
from btm.serve.members.cluster.placement import choose, need, said, scarcity

NEED = {"CPU": 1.0, "GPU": 0.0, "memory": 2e9}


def room(cpus, gigabytes):
    return {"CPU": cpus, "GPU": 0.0, "memory": 1e9 * gigabytes}


def test_the_machine_with_most_room_is_chosen():
    machines = {"a": room(2, 8), "b": room(4, 4), "c": room(8, 1), "d": room(0.5, 64)}
    assert choose(machines, [], NEED) == "b"
    assert choose(machines, ["b"], NEED) == "a"
    assert choose(machines, ["a", "b"], NEED) is None
    assert choose({}, [], NEED) is None
    assert choose(machines, [], NEED | {"GPU": 1.0}) is None


def test_the_scarcest_model_is_replicated_first():
    ranked = {
        "missing": scarcity(0.0, 0),
        "wanted": scarcity(5.0, 1),
        "wanted more, but twice there": scarcity(9.0, 2),
        "unwanted": scarcity(0.0, 1),
        "unwanted, and twice there": scarcity(0.0, 2),
    }
    assert sorted(ranked, key=ranked.__getitem__, reverse=True) == list(ranked)


def test_a_model_needs_its_weights_and_a_process(grown, forest):
    model = find_model(forest, "bible")
    full = need(grown[0], model)
    half = need(replace(grown[0], load=replace(grown[0].load, dtype="bf16")), model)
    assert full["memory"] - half["memory"] == 2 * model.card.parameters
    assert said(full).startswith("1 CPUs, 0.6")
