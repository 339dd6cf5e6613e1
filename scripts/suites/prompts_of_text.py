"""Tasks about passages of the demo's documents: what follows, what is in them, how words sound."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from suites.prompts import (
    KINDS,
    LANGUAGES,
    PASSAGE,
    Question,
    Source,
    Task,
    passages,
    some,
    with_options,
    yes_or_no,
)

PROSE = ("bible", "factbook", "novels", "rust_books", "speeches", "wikipedia")
NUMBERS = ("one", "two", "three", "four", "five")
_WORD = re.compile(r"[A-Za-z]{4,}")
_SOUND = re.compile(r"(?P<word>[A-Z]{3,})  (?P<sounds>[A-Z0-2 ]+)")
_JARGON = re.compile(r":(?P<word>[^:\n]{3,30}): (?P<text>[^:{]{60,})")


def _prose(source: Source, rng: random.Random, each: int = 40) -> Iterator[tuple[str, str]]:
    """Yield (domain, passage) of the domains in prose, in turns."""
    return passages({name: source.texts[name] for name in PROSE}, rng, each)


def _halves(text: str) -> tuple[str, str]:
    """Cut a passage at a blank near its middle."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def follows(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask how a passage goes on; the other end is of the same domain."""
    by_domain = defaultdict(list)
    for domain, text in _prose(source, rng):
        by_domain[domain].append(_halves(text))
    for pairs in by_domain.values():
        for number, (begin, end) in enumerate(pairs):
            other = pairs[(number + rng.randrange(1, len(pairs))) % len(pairs)][1]
            if begin and end and other != end:
                yield with_options({"text": begin}, end, [other], rng)


def last_word(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the last word of a passage; the other words end passages of the same domain."""
    by_domain = defaultdict(list)
    for domain, text in _prose(source, rng):
        begin, _, end = text.rpartition(" ")
        if _WORD.fullmatch(end):
            by_domain[domain].append((begin, end))
    for found in by_domain.values():
        for begin, right in found:
            ends = dict.fromkeys(end for _, end in rng.sample(found, min(len(found), 4)))
            if wrong := [end for end in ends if end != right][:3]:
                yield with_options({"text": begin}, right, some(wrong, rng), rng)


def contains(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a word stands in a passage."""
    found = [(set(_WORD.findall(text)), text) for _, text in _prose(source, rng)]
    for words, text in found:
        yes = rng.random() < 0.5
        among = words if yes else rng.choice(found)[0] - words
        if among:
            yield yes_or_no({"text": text, "word": rng.choice(sorted(among))}, yes, rng)


def ordered(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether the words of a passage are in order."""
    for _, text in _prose(source, rng):
        words = text.split()[:16]
        yes = rng.random() < 0.5
        if not yes:
            rng.shuffle(words)
        yield yes_or_no({"text": " ".join(words)}, yes, rng)


def ends(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a sentence is a question or a statement, without its last character."""
    marks = {"?": "question", ".": "statement"}
    found: dict[str, list[str]] = {mark: [] for mark in marks}
    for name in ("bible", "novels", "speeches"):
        for document in source.texts[name]:
            for sentence in re.findall(r"(?<=[.?!] )[A-Z][^.?!\"]{20,150}[.?]", document):
                found[sentence[-1]].append(" ".join(sentence[:-1].split()))
    count = min(1000, *map(len, found.values()))
    for number in range(count):
        for mark, sentences in found.items():
            wrong = [name for name in marks.values() if name != marks[mark]]
            yield with_options({"text": sentences[number]}, marks[mark], wrong, rng)


def _sounds(source: Source, rng: random.Random) -> list[tuple[str, list[str]]]:
    """Return (word, its sounds) of the pronouncing dictionary, shuffled."""
    lines = [line for document in source.texts["pronunciation"] for line in document.splitlines()]
    found = [match for line in lines if (match := _SOUND.fullmatch(line))]
    return [
        (each["word"].lower(), each["sounds"].split()) for each in rng.sample(found, len(found))
    ]


def rhyme(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of three words rhymes with another: from the last stressed vowel on."""
    by_end = defaultdict(list)
    for word, sounds in _sounds(source, rng)[:8000]:
        stressed = [place for place, sound in enumerate(sounds) if sound.endswith("1")]
        if stressed and stressed[-1]:
            by_end[" ".join(sounds[stressed[-1] :])].append(word)
    rhyming = {end: words for end, words in by_end.items() if len(words) > 1}
    for end, (word, right, *_) in rhyming.items():
        others = rng.sample(sorted(set(rhyming) - {end}), 2)
        yield with_options(
            {"word": word}, right, [rng.choice(rhyming[each]) for each in others], rng
        )


def syllables(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask how many syllables a word has, equally often one to five."""
    by_count: dict[int, list[str]] = {count: [] for count in range(1, len(NUMBERS) + 1)}
    for word, sounds in _sounds(source, rng):
        by_count.get(sum(sound[-1].isdigit() for sound in sounds), []).append(word)
    for words in zip(*by_count.values(), strict=False):
        for right, word in zip(NUMBERS, words, strict=True):
            wrong = rng.sample([each for each in NUMBERS if each != right], 3)
            yield with_options({"word": word}, right, some(wrong, rng), rng)


def jargon(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which hackers' word an entry of the Jargon File is of."""
    entries = [found for document in source.texts["jargon"] for found in _JARGON.finditer(document)]
    words = sorted({each["word"] for each in entries})
    for each in rng.sample(entries, len(entries)):
        text = " ".join(each["text"].split())[:PASSAGE]
        if each["word"].lower() not in text.lower():
            wrong = [other for other in rng.sample(words, 3) if other != each["word"]][:2]
            yield with_options({"text": text}, each["word"], some(wrong, rng), rng)


def title(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which article of Wikipedia a passage is of."""
    articles = {}
    for document in source.texts["wikipedia"]:
        name, _, text = document.partition("\n\n")
        if name[:1].isalnum() and len(name) < 40 and len(text) > 4 * PASSAGE:
            articles[name] = text
    for name, text in passages({name: [text] for name, text in articles.items()}, rng, 30):
        if name.lower() not in text.lower():
            wrong = rng.sample(sorted(set(articles) - {name}), 3)
            yield with_options({"text": text}, name, some(wrong, rng), rng)


def genre(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask of which kind a passage is, among two to four."""
    for domain, text in passages({name: source.texts[name] for name in KINDS}, rng, 20):
        wrong = rng.sample([kind for name, kind in KINDS.items() if name != domain], 3)
        yield with_options({"text": text}, KINDS[domain], some(wrong, rng), rng)


def between(
    sides: dict[str, tuple[str, ...]],
) -> Callable[[Source, random.Random], Iterator[Question]]:
    """Return a function that asks which of two words describes a passage.

    `sides`: the domains that each word describes.
    """

    def ask(source: Source, rng: random.Random) -> Iterator[Question]:
        found = [
            passages({name: source.texts[name] for name in names}, rng, 40)
            for names in sides.values()
        ]
        one, two = sides
        for (_, first), (_, second) in zip(*found, strict=False):
            yield with_options({"text": first}, one, [two], rng)
            yield with_options({"text": second}, two, [one], rng)

    return ask


def going_on(source: Source, rng: random.Random) -> Iterator[dict[str, str]]:
    """Yield rows in which a passage of the kinds goes on, without a question.

    They keep an expert of answers a language model, as the mix of Ouyang et al. (2022, section 3.5)
    does.
    """
    for _, text in passages({name: source.texts[name] for name in KINDS}, rng, 20):
        begin, end = _halves(text)
        if begin and end:
            yield {"prompt": begin, "completion": f" {end}"}


def language(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask in which programming language a passage is written (classification)."""
    for domain, text in passages({name: source.texts[name] for name in LANGUAGES}, rng, 6):
        wrong = [name for each, name in LANGUAGES.items() if each != domain]
        yield with_options({"text": text}, LANGUAGES[domain], wrong, rng)


# fmt: off
OF_TEXT = (
    Task("follows", follows, (
        "{text}\nHow does this go on?\n{lines}\nAnswer:",
        "{lines}\nWhich of these follows on: {text}",
        "Choose an end.\n{lines}\nBeginning: {text}\nEnd:",
        "Text: {text}\nOptions:\n{lines}\nContinuation:")),
    Task("last_word", last_word, (
        "{text} ...\nWhich word comes next: {options}?",
        "Finish: {text} ...\n{lines}\nAnswer:",
        "Choose from {options}.\nThe next word of \"{text}\" is",
        "Text: {text}\nOptions:\n{lines}\nNext word:")),
    Task("contains", contains, (
        "{text}\nDoes the word {word} stand in this text? Answer {options}.",
        "Look for {word} in: {text}\nIs it there, {options}?",
        "{options}: \"{text}\" has the word {word}.",
        "Text: {text}\nWord: {word}\nOptions:\n{lines}\nIs the word in the text?")),
    Task("ordered", ordered, (
        "{text}\nAre these words in the right order? Answer {options}.",
        "Is this a text as people write it, {options}?\n{text}\nAnswer:",
        "{options}: \"{text}\" is in good order.",
        "Words: {text}\nOptions:\n{lines}\nIn order?")),
    Task("ends", ends, (
        "{text}\nIs this a {options}?",
        "What is this sentence?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n\"{text}\" is a",
        "Sentence: {text}\nOptions:\n{lines}\nIts type:")),
    Task("rhyme", rhyme, (
        "Which word rhymes with {word}: {options}?",
        "Find a rhyme for {word}:\n{lines}\nAnswer:",
        "Choose from {options}.\nA word that sounds like {word} is",
        "Word: {word}\nOptions:\n{lines}\nRhyme:")),
    Task("syllables", syllables, (
        "How many syllables has {word}: {options}?",
        "Count the syllables of {word}:\n{lines}\nAnswer:",
        "Choose from {options}.\nThe number of syllables in {word} is",
        "Word: {word}\nOptions:\n{lines}\nSyllables:")),
    Task("jargon", jargon, (
        "{text}\nWhat do hackers call this: {options}?",
        "Which entry is this of?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n\"{text}\" explains",
        "Definition: {text}\nOptions:\n{lines}\nThe word:")),
    Task("title", title, (
        "{text}\nWhich article is this from: {options}?",
        "What is the title of the article?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n\"{text}\" is about",
        "Text: {text}\nOptions:\n{lines}\nTitle:")),
    Task("genre", genre, (
        "{text}\nThis passage is from a text of which kind: {options}?",
        "Sort this passage.\n{text}\n{lines}\nIt goes under",
        "Choose from {options}.\n\"{text}\" comes from the kind",
        "Passage: {text}\nOptions:\n{lines}\nGenre:")),
    Task("fiction", between({"fiction": ("novels",), "fact": ("factbook", "wikipedia")}), (
        "{text}\nDoes this passage tell {options}?",
        "Did someone make this up?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n\"{text}\" tells",
        "Passage: {text}\nOptions:\n{lines}\nIt tells:")),
    Task("spoken", between({"spoken": ("speeches",), "written": ("factbook", "wikipedia")}), (
        "{text}\nWas this first {options}?",
        "How did these words reach people?\n{text}\n{lines}\nThey were",
        "{options}? \"{text}\" was",
        "Words: {text}\nOptions:\n{lines}\nThey were first:")),
    Task("religious", between({"religious": ("bible",), "secular": ("novels", "speeches")}), (
        "{text}\nThe book of these lines, is it {options}?",
        "Judge the source of these lines.\n{text}\n{lines}\nThe source is",
        "Choose from {options}.\n{text}\nThese lines are",
        "Lines: {text}\nOptions:\n{lines}\nTheir source is:")),
    Task("technical", between({"technical": ("python_docs", "rust_books"), "literary": ("bible", "novels")}), (
        "Is the following {options}?\n{text}\nAnswer:",
        "{text}\nWhat would a librarian call this?\n{lines}\nAnswer:",
        "One of {options} is right for this: {text}\nThe right one is",
        "Extract: {text}\nOptions:\n{lines}\nIts character:")),
    Task("formal", between({"formal": ("factbook", "wikipedia"), "casual": ("jargon",)}), (
        "{text}\nIs the tone of this {options}?",
        "How does the author write?\n{text}\n{lines}\nThe tone is",
        "Tone, {options}: \"{text}\" is",
        "Paragraph: {text}\nOptions:\n{lines}\nTone:")),
    Task("foreign", between({"English": ("bible", "novels"), "Spanish": ("spanish",)}), (
        "{text}\nDoes one read here {options}?",
        "Which tongue is this?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n\"{text}\" is in",
        "Sentence: {text}\nOptions:\n{lines}\nTongue:")),
    Task("notation", between({"mathematics": ("metamath",), "code": ("code_python",)}), (
        "{text}\nIs this {options}?",
        "What do these signs belong to?\n{text}\n{lines}\nAnswer:",
        "Choose from {options}.\n{text}\nThe signs above are",
        "Signs: {text}\nOptions:\n{lines}\nThey are:")),
)
LANGUAGE = Task("language", language, (
    "{text}\n\nWhich programming language is this: {options}?",
    "Which language is the following program in?\n{text}\n{lines}\nLanguage:",
    "Choose from {options}.\nProgram: {text}\nThis program is written in",
    "Program: {text}\nOptions:\n{lines}\nIts language:"), trained=False)
# fmt: on
