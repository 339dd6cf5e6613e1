"""Modules by name: ports that do not fit, options that nobody takes, code that nobody named."""

import pytest

from btm.errors import UserError
from btm.readers.ports import BOOL, INT, Port, check_batch, require
from btm.readers.registry import Spec, resolve

LINKS = {"questions": "triples", "input": "links", "model": "distmult", "output": "ranking"}


def spec(options=None, **given):
    return Spec(**LINKS | given, options=options or {})


def test_ports_that_do_not_fit_are_one_clear_line():
    given = [Port("states", shape="BTH"), Port("span", INT, "B")]
    require("a model", given, given)
    with pytest.raises(UserError, match=r"a model takes end int64 \[B\], which nothing before"):
        require("a model", [Port("end", INT)], given)
    with pytest.raises(
        UserError, match=r"takes span int64 \[B, T\], and is given span int64 \[B\]"
    ):
        require("a model", [Port("span", INT, "BT")], given)
    with pytest.raises(UserError, match=r"takes span bool \[B\], and is given span int64 \[B\]"):
        require("a model", [Port("span", BOOL)], given)


def test_modules_of_different_tasks_do_not_fit():
    with pytest.raises(UserError, match=r"reader\.model=.*takes subject.*which nothing before it"):
        resolve(spec(input="own_reader:Lengths"), ["own_reader:Lengths"])


def test_a_batch_is_what_its_ports_say():
    import torch

    ports = [Port("a", shape="BN"), Port("b", INT, "B")]
    good = {"a": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.int64)}
    check_batch("a module", ports, good)
    for wrong in (
        good | {"b": torch.zeros(3, dtype=torch.int64)},
        good | {"a": torch.zeros(2)},
        good | {"a": torch.zeros(2, 3).double()},
        {"a": good["a"]},
    ):
        with pytest.raises(UserError, match="says that it gives"):
            check_batch("a module", ports, wrong)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "distmlt"}, r"no reader\.model 'distmlt' \(did you mean 'distmult'\?\)"),
        ({"model": "os:nothing"}, "wanted package.module:NAME"),
        ({"model": "no_such_package:Model"}, "wanted package.module:NAME"),
        ({"options": {"dimm": 8}}, r"no reader\.options 'dimm' \(did you mean 'dim'\?\)"),
        ({"options": {"dim": "many"}}, "dim=many: wanted a whole number"),
        ({"options": {"smoothing": True}}, "smoothing=True: wanted a number"),
    ],
)
def test_what_is_wrong_is_named(given, said):
    with pytest.raises(UserError, match=said):
        made = spec(**given)
        resolve(made, made.foreign)


def test_options_go_to_the_modules_that_take_them():
    found = resolve(spec({"dim": 8, "most": 3}))
    assert found.options == {"input": {}, "model": {"dim": 8}, "output": {"most": 3}}


def test_foreign_code_runs_only_where_it_is_named():
    made = spec(input="own_reader:Lengths")
    assert made.foreign == {"own_reader:Lengths"}
    with pytest.raises(UserError, match="code of its own, own_reader:Lengths: name it"):
        resolve(made)
