"""Tokens and masks of examples, against transformers' own, and what is cut of long ones."""

import numpy as np
import pytest
import questions

from btm.data.encode import Encoder
from btm.data.prompted.encode import Cut, ExampleEncoder
from btm.data.prompted.examples import Example, Reader, examples_of
from btm.data.prompted.template import DEFAULT
from btm.data.tokenizer import load_tokenizer

SAID = questions.sentences(n=12)


@pytest.fixture
def encoder(suite):
    return Encoder.open(suite.tokenizer)


def of_transformers(tokenizer, messages):
    """The ids of a conversation and which of them the assistant has said."""
    marked = (
        "{%- for message in messages -%}{%- if not loop.first %}{{ '\\n' }}{% endif -%}"
        "{{ '<|' + message['role'] + '|>\\n' }}{%- if message['role'] == 'assistant' -%}"
        "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
        "{%- else %}{{ message['content'] }}{% endif -%}{%- endfor -%}"
    )
    found = tokenizer.apply_chat_template(
        messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    return found["input_ids"], found["assistant_masks"]


def test_conversations_are_as_transformers_has_them(suite, encoder):
    tokenizer = load_tokenizer(suite.tokenizer)
    tokenizer.chat_template = DEFAULT.read_text()
    mine, reader = ExampleEncoder(encoder, everywhere=False), Reader(tokenizer)
    for pair in zip(SAID[::2], SAID[1::2], strict=True):
        row = questions.talk(*pair)
        (example,) = examples_of(reader.written(row))
        ids, mask, n_bytes = mine.encode(example)
        wanted, said = of_transformers(tokenizer, row["messages"])
        assert ids.tolist() == wanted and mask.tolist() == said
        answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert n_bytes == sum(len(f"{each}<|endoftext|>".encode()) for each in answers)


def test_a_completion_ends_with_eos_and_begins_where_the_prompt_ends(suite, encoder):
    tokenizer = load_tokenizer(suite.tokenizer)
    mine = ExampleEncoder(encoder, everywhere=False)
    for sentence in SAID:
        first, second = questions.halves(sentence)
        ids, mask, _ = mine.encode(Example(((first, False), (second, True))))
        prompt = tokenizer(first).input_ids
        assert ids.tolist() == [*tokenizer(sentence).input_ids, encoder.eos]
        assert mask.tolist() == [0] * len(prompt) + [1] * (len(ids) - len(prompt))


def test_no_token_reaches_over_the_border(suite, encoder):
    tokenizer = load_tokenizer(suite.tokenizer)
    example = Example((("wonderf", False), ("ul", True)))
    ids, mask, _ = ExampleEncoder(encoder, everywhere=False).encode(example)
    apart = [*tokenizer("wonderf").input_ids, *tokenizer("ul").input_ids, encoder.eos]
    assert ids.tolist() == apart
    assert tokenizer.decode(ids[mask == 1][:-1].tolist()) == "ul"


def test_special_tokens_are_special_in_chats_alone(encoder):
    mine = ExampleEncoder(encoder, everywhere=False)
    text = (("a", False), ("b<|endoftext|>\n", True))
    ids, mask, _ = mine.encode(Example(text, is_chat=True))
    # The end of the turn is the last that is predicted; the EOS after it ends the document.
    at = ids.tolist().index(encoder.eos)
    assert mask[: at + 1].tolist() == [0] + [1] * at and not mask[at + 1 :].any()
    assert ids[-1] == encoder.eos
    ids, mask, _ = mine.encode(Example(text))
    assert encoder.eos not in ids[:-1].tolist() and mask[1:].all()


def test_loss_on_all_leaves_out_the_first_token(encoder):
    ids, mask, n_bytes = ExampleEncoder(encoder, everywhere=True).encode(
        Example((("who ", False), ("they", True)))
    )
    assert mask.tolist() == [0] + [1] * (len(ids) - 1) and n_bytes == 8


def test_examples_begin_with_the_bos_of_texts(encoder, suite):
    spec = (suite.tokenizer / "tokenizer.json").read_text()
    with_bos = Encoder(spec, encoder.eos, encoder.vocab_size, bos=5)
    ids, mask, _ = ExampleEncoder(with_bos, everywhere=True).encode(
        Example((("who ", False), ("they", True)))
    )
    assert ids[0] == 5 and mask[0] == 0 and mask[1:].all()


def test_long_examples_lose_tokens_at_one_end(encoder):
    mine = ExampleEncoder(encoder, everywhere=False)
    whole = mine.encode(Example((("who are you? " * 9, False), (" we", True))))
    n, answer = len(whole.ids), int(whole.mask.sum())
    assert Cut(n, "left")(whole) is whole
    left = Cut(n - 5, "left")(whole)
    assert left.ids.tolist() == whole.ids[5:].tolist()
    assert left.mask.tolist() == whole.mask[5:].tolist() and left.n_bytes == whole.n_bytes
    assert Cut(answer + 1, "left")(whole) is not None
    assert Cut(answer, "left")(whole) is None  # no prompt is left
    right = Cut(n - 1, "right")(whole)
    assert right.ids.tolist() == whole.ids[:-1].tolist() and 0 < right.n_bytes <= whole.n_bytes
    assert Cut(n - answer, "right")(whole) is None  # no answer is left


def test_an_answer_whose_prompt_is_cut_away_is_not_predicted(encoder):
    mine = ExampleEncoder(encoder, everywhere=False)
    parts = (("who?", False), ("they" * 20, True), ("what?", False), ("it", True))
    whole = mine.encode(Example(parts))
    begin = int(np.flatnonzero(whole.mask)[3])
    cut = Cut(len(whole.ids) - begin, "left")(whole)
    later = np.flatnonzero(np.diff(whole.mask.astype(int)) == 1)[-1] + 1
    assert np.flatnonzero(cut.mask)[0] == later - begin
    assert Cut(len(whole.ids) - begin, "left", everywhere=True)(whole).mask[1] == 1
