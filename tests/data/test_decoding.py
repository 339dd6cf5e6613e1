"""What follows a prompt is decoded with it: blanks, pieces of words and bytes come out right."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from btm.cli import main
from btm.data.decoding import continuation

TEXT = ["ka lo mi ka lo", "mi, ka; don't 's é ü 漢 字 🌲!", "kalo lomi kami  mimi\nlo"] * 20
EOS = "</s>"


def wrapped(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, unk_token="<unk>")


def metaspace():
    """As sentencepiece's unigram models: ALBERT, T5."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", EOS], show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return wrapped(made)


def llama():
    """As Llama 2's: no pre-tokenizer, bytes for unknown characters, a blank put before a text."""
    pieces = ["<unk>", "<s>", EOS, *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["▁", "k", "a", "l", "o", "m", "i", "ka", "lo", "mi", "▁ka", "▁lo", "▁mi"]
    merges = [("k", "a"), ("l", "o"), ("m", "i"), ("▁", "ka"), ("▁", "lo"), ("▁", "mi")]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(made)


def wordpiece():
    """As BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=90, special_tokens=["<unk>", EOS], show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return wrapped(made)


def byte_level():
    """As GPT-2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<unk>", EOS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    return wrapped(made)


KINDS = [metaspace, llama, wordpiece, byte_level]


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_is_not_lost(kind):
    tokenizer = kind()
    whole = ids_of(tokenizer, "ka lo mi ka")
    prompt = ids_of(tokenizer, "ka lo mi")
    assert whole[: len(prompt)] == prompt
    pieces = list(continuation(tokenizer, prompt, whole[len(prompt) :]))
    assert "ka lo mi" + "".join(pieces) == "ka lo mi ka"


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_goes_on_without_one(kind):
    tokenizer = kind()
    for whole, prompt in (("kalo", "ka"), ("mi kalo", "mi ka")):
        ids, first = ids_of(tokenizer, whole), ids_of(tokenizer, prompt)
        if ids[: len(first)] == first:
            assert prompt + "".join(continuation(tokenizer, first, ids[len(first) :])) == whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_the_text_of_all_tokens(kind, seed):
    """After prompts of any length, an empty one too: joined the pieces are the text of all tokens,
    less that of the prompt. Llama's decoder takes back whole characters where a byte that fits
    nowhere follows, so its tokens are those of a text.
    """
    tokenizer = kind()
    random = np.random.default_rng(seed)
    text = "".join(random.choice([" ", "ka", "lo", "mi", "\n", "é", "漢", "🌲", ",", "'s"], 60))
    ids = ids_of(tokenizer, text)
    if kind is not llama:
        ids += random.integers(2, len(tokenizer), 60).tolist()

    def decoded(part):
        return tokenizer.decode(part, clean_up_tokenization_spaces=False)

    for cut in (0, 1, 7, 31):
        if decoded(ids[:cut]).endswith("\ufffd"):
            continue  # no prompt of a user ends within a character
        found = "".join(continuation(tokenizer, ids[:cut], ids[cut:]))
        assert found == decoded(ids)[len(decoded(ids[:cut])) :].rstrip("\ufffd")


@pytest.mark.parametrize("kind", [llama, byte_level])
def test_a_character_of_several_tokens_comes_whole_or_not_at_all(kind):
    tokenizer = kind()
    prompt, whole = ids_of(tokenizer, "ka"), ids_of(tokenizer, "ka日本🌵")
    made = whole[len(prompt) :]
    assert len(made) > 6
    assert list(continuation(tokenizer, prompt, made)) == ["日", "本", "🌵"]
    for cut in range(len(made)):
        found = "".join(continuation(tokenizer, prompt, made[:cut]))
        assert "日本🌵".startswith(found) and "\ufffd" not in found


def test_pieces_come_with_their_tokens():
    tokenizer = llama()
    taken = []

    def tokens():
        for token in ids_of(tokenizer, "ka lo"):
            taken.append(token)
            yield token

    for number, _ in enumerate(continuation(tokenizer, ids_of(tokenizer, "mi"), tokens()), 1):
        assert len(taken) == number


def test_nothing_made_adds_nothing():
    tokenizer = metaspace()
    assert list(continuation(tokenizer, ids_of(tokenizer, "ka lo"), [])) == []


@pytest.mark.parametrize("kind", [metaspace, llama, wordpiece])
def test_the_command_prints_it(kind, tmp_path, capsys):
    """`btm generate` with and without --json, on a forest grown over such a tokenizer."""
    kind().save_pretrained(tmp_path / "tokenizer")
    for number in range(3):
        for split in ("train", "valid", "test"):
            file = tmp_path / f"texts/words{number}/{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("ka lo mi " * 800 + f"{split}{number}")
    words = [
        f"data.root={tmp_path / 'texts'}",
        f"data.out={tmp_path / 'data'}",
        "data.name=words",
        f"data.tokenizer={tmp_path / 'tokenizer'}",
        f"forest={tmp_path / 'forest'}",
        "experiment=smoke",
        "seed.steps=40",
        "trainer.seq_len=16",
        "trainer.lr=1e-2",
    ]
    assert main.main(["prepare", *words]) == main.main(["seed", *words]) == 0
    capsys.readouterr()
    asked = ["generate", *words, "prompt=ka lo mi", "generate.tokens=9", "generate.temperature=0"]
    assert main.main(asked) == 0
    said = capsys.readouterr().out
    assert said.startswith("ka lo mi ka")
    assert main.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"].startswith(" ka")
    assert found["prompt"] + found["text"] + "\n" == said
    assert found["tokens"] == 9
