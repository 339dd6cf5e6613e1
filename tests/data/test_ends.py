"""All tokens that end a text: the tokenizer's, and those that a model's settings add."""

import pytest
from interop.models import make_model

from btm.data.ends import Ends, ends_of, settle


@pytest.mark.parametrize(
    ("named", "ids", "left_out"),
    [
        ((), (3,), ()),
        ((None, None), (3,), ()),
        ((3, [3]), (3,), ()),
        (([0, 5, 7], None), (3, 0, 5, 7), ()),
        ((7, [5, 7]), (3, 7, 5), ()),
        ((50256,), (3,), ("50256",)),
        (([3, 400], -1), (3,), ("400", "-1")),
        (("</s>", [True, 1.5]), (3,), ("</s>", "True", "1.5")),
    ],
)
def test_the_tokenizers_comes_first_and_what_is_no_token_is_left_out(named, ids, left_out):
    found = ends_of(3, 400, *named)
    assert (found.ids, found.left_out) == (ids, left_out)
    assert found.setting == (3 if len(ids) == 1 else list(ids))
    assert bool(found.note) == bool(left_out)


def test_a_models_settings_say_so_and_the_card_what_was_left_out():
    model = make_model("gpt2", eos_token_id=None, bos_token_id=None)
    model.config.eos_token_id, model.config.bos_token_id = 50256, 50256
    model.generation_config.eos_token_id = [9, 50256]
    notes = settle(model, 4, 512, None)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [4, 9]
    assert model.config.bos_token_id == 4  # it had one that is no token
    assert notes == [Ends((4, 9), ("50256",)).note]
    assert settle(model, 4, 512, 2) == [] and model.config.bos_token_id == 2
