"""Tasks about WordNet's words: their kinds, meanings, forms and relations, and reading of glosses.

Their source is the suite `readers`, of which suites/prompts_rows.py reads one split.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator

from btm.system.json_files import Json
from suites.prompts import PASSAGE, Question, Source, Task, some, with_options, yes_or_no

LABELS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
NOUNS = {
    "noun_animal": "animal",
    "noun_artifact": "artifact",
    "noun_body": "body part",
    "noun_event": "event",
    "noun_feeling": "feeling",
    "noun_food": "food",
    "noun_group": "group",
    "noun_location": "place",
    "noun_person": "person",
    "noun_plant": "plant",
    "noun_quantity": "quantity",
    "noun_shape": "shape",
    "noun_substance": "substance",
    "noun_time": "time",
}
VERBS = {
    "verb_cognition": "thinking",
    "verb_communication": "speaking",
    "verb_competition": "fighting",
    "verb_consumption": "eating",
    "verb_contact": "touching",
    "verb_creation": "making",
    "verb_motion": "moving",
    "verb_perception": "seeing",
    "verb_possession": "owning",
    "verb_weather": "weather",
}
CLASSES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
MOST = 9000  # rows that questions of one task are made of


def _some(rows: list[Json], rng: random.Random) -> list[Json]:
    return rng.sample(rows, min(len(rows), MOST))


def _by_category(source: Source) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = defaultdict(list)
    for entry in source.rows["entries"]:
        found[entry["category"]].append(entry)
    return found


def _others(
    entry: Json, among: dict[str, list[Json]], rng: random.Random, count: int
) -> list[Json]:
    """Pick entries of the same category that share no word, of different first words."""
    taken = set(entry["words"])
    found: list[Json] = []
    category = among[entry["category"]]
    for other in rng.sample(category, min(len(category), 9 * count)):
        if len(found) == count:
            break
        if taken.isdisjoint(other["words"]):
            found.append(other)
            taken.update(other["words"])
    return found


def _of_kinds(kinds: dict[str, str], source: Source, rng: random.Random) -> Iterator[Question]:
    among = _by_category(source)
    count = max(len(among[name]) for name in kinds)
    for number in range(min(count, 400)):
        for name, kind in kinds.items():
            if number < len(among[name]):
                entry = among[name][number]
                wrong = rng.sample(sorted(set(kinds.values()) - {kind}), 3)
                fields = {"word": entry["words"][0], "gloss": entry["gloss"]}
                yield with_options(fields, kind, some(wrong, rng), rng)


def noun_kind(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask what kind of thing a noun is."""
    return _of_kinds(NOUNS, source, rng)


def verb_kind(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask what a verb is about."""
    return _of_kinds(VERBS, source, rng)


def odd(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of four nouns is of another kind than the others."""
    words = {
        name: {word for entry in entries for word in entry["words"]}
        for name, entries in _by_category(source).items()
    }
    for _ in range(3000):
        usual, other = rng.sample(sorted(NOUNS), 2)
        among, others = sorted(words[usual] - words[other]), sorted(words[other] - words[usual])
        if len(among) >= 3 and others:
            yield with_options({}, rng.choice(others), rng.sample(among, 3), rng)


def meaning(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of three glosses is a word's."""
    among = _by_category(source)
    for entry in _some(source.rows["entries"], rng):
        wrong = [each["gloss"][:60] for each in _others(entry, among, rng, 2)]
        if len({*wrong, entry["gloss"][:60]}) == 3:
            right = entry["gloss"][:60]
            yield with_options({"word": entry["words"][0]}, right, some(wrong, rng), rng)


def means(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a gloss is a word's."""
    among = _by_category(source)
    for entry in _some(source.rows["entries"], rng):
        if others := _others(entry, among, rng, 1):
            yes = rng.choice((True, False))
            gloss = (entry if yes else others[0])["gloss"]
            yield yes_or_no({"word": entry["words"][0], "gloss": gloss}, yes, rng)


def synonym(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of four words means what another does."""
    among = _by_category(source)
    for entry in _some(source.rows["entries"], rng):
        if len(entry["words"]) > 1 and (others := _others(entry, among, rng, 3)):
            word, right = rng.sample(entry["words"], 2)
            wrong = [rng.choice(each["words"]) for each in others]
            yield with_options({"word": word}, right, some(wrong, rng), rng)


def alike(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether two words mean the same."""
    among = _by_category(source)
    for entry in _some(source.rows["entries"], rng):
        if len(entry["words"]) > 1 and (others := _others(entry, among, rng, 1)):
            yes = rng.choice((True, False))
            one, two = rng.sample(entry["words"], 2)
            if not yes:
                two = rng.choice(others[0]["words"])
            yield yes_or_no({"one": one, "two": two}, yes, rng)


def blank(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the word that was left out of an example."""
    among = _by_category(source)
    for entry in _some(source.rows["entries"], rng):
        for word in entry["words"][:1]:
            gap = re.compile(rf"\b{re.escape(word)}\b")
            used = [each for each in entry["examples"] if len(each) > 30 and gap.search(each)]
            wrong = [each["words"][0] for each in _others(entry, among, rng, 3)] if used else []
            if len(wrong) == 3:
                text = gap.sub("___", used[0], count=1)
                yield with_options({"text": text}, word, some(wrong, rng), rng)


def spelled(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of three spellings is right; in the others two neighbouring letters are swapped."""
    for entry in _some(source.rows["entries"], rng):
        word = entry["words"][0]
        swapped = {
            word[:place] + word[place + 1] + word[place] + word[place + 2 :]
            for place in range(1, len(word) - 1)
        } - {word}
        if word.isalpha() and len(swapped) > 2:
            yield with_options({}, word, some(rng.sample(sorted(swapped), 2), rng), rng)


def _class(category: str) -> str:
    return CLASSES.get(category.partition("_")[0], "")


def word_class(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the part of speech of a word, equally often each."""
    by_class = defaultdict(list)
    for entry in rng.sample(source.rows["entries"], len(source.rows["entries"])):
        by_class[_class(entry["category"])].append(entry)
    names = [name for name in CLASSES.values() if by_class[name]]
    for entries in zip(*(by_class[name] for name in names), strict=False):
        for right, entry in zip(names, entries, strict=True):
            wrong = [name for name in CLASSES.values() if name != right]
            fields = {"word": entry["words"][0], "gloss": entry["gloss"]}
            yield with_options(fields, right, some(wrong, rng), rng)


def _facts(source: Source, relation: str, rng: random.Random) -> Iterator[tuple[Json, list[str]]]:
    """Yield facts of a relation, each with three wrong tails of the same part of speech.

    A word is as often a wrong tail as it is a right one, so that its frequency tells nothing.
    """
    facts = [fact for fact in source.rows["facts"] if fact["relation"] == relation]
    tails = defaultdict(list)
    for fact in facts:
        tails[_class(fact["tail"]["category"])].append(fact["tail"]["word"])
    for fact in _some(facts, rng):
        drawn = rng.choices(tails[_class(fact["tail"]["category"])], k=12)
        right = {fact["head"]["word"], *fact["true"]}
        wrong = [each for each in dict.fromkeys(drawn) if each not in right]
        if len(wrong) >= 3 and fact["tail"]["word"] != fact["head"]["word"]:
            yield fact, wrong[:3]


def _tail(source: Source, relation: str, rng: random.Random) -> Iterator[Question]:
    for fact, wrong in _facts(source, relation, rng):
        fields = {"word": fact["head"]["word"], "gloss": fact["head"]["gloss"]}
        yield with_options(fields, fact["tail"]["word"], some(wrong, rng), rng)


def wider(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of two words means more: a thing, or what it is a kind of."""
    for fact, _ in _facts(source, "_hypernym", rng):
        yield with_options({}, fact["tail"]["word"], [fact["head"]["word"]], rng)


def kind_of(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask what a thing is a kind of."""
    return _tail(source, "_hypernym", rng)


def is_kind(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a thing is of a kind."""
    for fact, others in _facts(source, "_hypernym", rng):
        yes = rng.choice((True, False))
        kind = fact["tail"]["word"] if yes else others[0]
        fields = {"word": fact["head"]["word"], "gloss": fact["head"]["gloss"], "kind": kind}
        yield yes_or_no(fields, yes, rng)


def has_part(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask what is a part of a thing."""
    return _tail(source, "_has_part", rng)


def topic(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which field a word belongs to."""
    return _tail(source, "_synset_domain_topic_of", rng)


def instance(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask what somebody or something of a name is."""
    return _tail(source, "_instance_hypernym", rng)


def similar(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which adjective is near another."""
    return _tail(source, "_similar_to", rng)


def derived(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which word is of the family of another; both begin alike."""
    for question in _tail(source, "_derivationally_related_form", rng):
        if question.choices[question.answer][:3] == question.fields["word"][:3]:
            yield question


def reading(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask about some glosses which of their words is meant."""
    for row in _some(source.rows["reading"], rng):
        heads = [each.split(":")[0] for each in re.split(r"(?<=\.) ", row["context"])]
        wrong = [each for each in dict.fromkeys(heads) if each != row["answer"]]
        if row["answer"] in heads and len(row["context"]) < 4 * PASSAGE and len(wrong) >= 3:
            fields = {"text": row["context"], "question": row["question"]}
            yield with_options(fields, row["answer"], some(rng.sample(wrong, 3), rng), rng)


def entails(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a thing is of a kind, by the gloss of its name (inference)."""
    for row in source.rows["nli"]:
        fields = {"premise": row["premise"], "hypothesis": row["hypothesis"]}
        wrong = [each for each in LABELS.values() if each != LABELS[row["label"]]]
        yield with_options(fields, LABELS[row["label"]], wrong, rng)


def sentiment(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a sentence of a review is positive (classification)."""
    for row in source.rows["sentiment"]:
        if len(row["support"]) <= PASSAGE:
            right = row["choices"][row["answer"]]
            wrong = [each for each in row["choices"] if each != right]
            yield with_options({"text": row["support"]}, right, wrong, rng)


# fmt: off
OF_WORDS = (
    Task("noun_kind", noun_kind, (
        "{word}: {gloss}\nIs this {options}?",
        "What kind of thing is {word} ({gloss})?\n{lines}\nAnswer:",
        "Choose from {options}.\nA word that means \"{gloss}\" is of the kind",
        "The word {word} means: {gloss}\nOptions:\n{lines}\nIts kind:")),
    Task("verb_kind", verb_kind, (
        "to {word}: {gloss}\nIs this about {options}?",
        "What is the verb {word} ({gloss}) about?\n{lines}\nAnswer:",
        "Choose from {options}.\nA verb that means \"{gloss}\" is about",
        "The verb {word} means: {gloss}\nOptions:\n{lines}\nIt is about:")),
    Task("odd", odd, (
        "Which of these does not belong to the others: {options}?",
        "Find the odd one out:\n{lines}\nAnswer:",
        "Of {options}, all but one are of the same kind. The other is",
        "{lines}\nOne of them is of another kind. It is:")),
    Task("meaning", meaning, (
        "What does {word} mean?\n{lines}\nAnswer:",
        "{lines}\nWhich of these is the meaning of {word}?",
        "Choose the definition.\n{lines}\n{word}:",
        "Word: {word}\nOptions:\n{lines}\nDefinition:")),
    Task("means", means, (
        "Does {word} mean \"{gloss}\"? Answer {options}.",
        "Word: {word}\nDefinition: {gloss}\nIs this right, {options}?",
        "{options}: {word} is defined as \"{gloss}\".",
        "Someone says that {word} means: {gloss}\nIs that so?\n{lines}\nAnswer:")),
    Task("synonym", synonym, (
        "Which word means the same as {word}: {options}?",
        "Find a synonym of {word}:\n{lines}\nAnswer:",
        "Choose from {options}.\nAnother word for {word} is",
        "Word: {word}\nOptions:\n{lines}\nSynonym:")),
    Task("alike", alike, (
        "Do {one} and {two} mean the same? Answer {options}.",
        "First word: {one}\nSecond word: {two}\nAre they synonyms, {options}?",
        "{options}: another word for {one} is {two}.",
        "Can one say {two} for {one}?\n{lines}\nAnswer:")),
    Task("blank", blank, (
        "{text}\nWhich word was left out: {options}?",
        "Fill in the blank: {text}\n{lines}\nAnswer:",
        "Choose from {options}.\nThe missing word of \"{text}\" is",
        "Sentence: {text}\nOptions:\n{lines}\nThe word for the blank:")),
    Task("spelled", spelled, (
        "Which is spelled correctly: {options}?",
        "Find the right spelling:\n{lines}\nAnswer:",
        "Of {options}, only one is without an error. It is",
        "{lines}\nOne of them is a real word:")),
    Task("kind_of", kind_of, (
        "{word}: {gloss}\nWhat is it a kind of: {options}?",
        "{word} ({gloss}) is a kind of\n{lines}\nAnswer:",
        "Choose from {options}.\n{word} is a kind of",
        "Word: {word}\nMeaning: {gloss}\nOptions:\n{lines}\nMore general word:")),
    Task("is_kind", is_kind, (
        "{word}: {gloss}\nIs it a kind of {kind}? Answer {options}.",
        "Is {word} ({gloss}) a sort of {kind}, {options}?",
        "{options}: every {word} is a {kind}.",
        "Meaning of {word}: {gloss}\nClaim: it is a {kind}. Is the claim right?\n{lines}\nAnswer:")),
    Task("wider", wider, (
        "Which of the two is more general: {options}?",
        "One of these takes in the other.\n{lines}\nThe wider word is",
        "Between {options}, the broader notion is",
        "Options:\n{lines}\nBroader:")),
    Task("word_class", word_class, (
        "{word}: {gloss}\nIs {word} here used as {options}?",
        "What part of speech is {word} ({gloss})?\n{lines}\nAnswer:",
        "Choose from {options}.\nWith the meaning \"{gloss}\", {word} is of the class",
        "Word: {word}\nMeaning: {gloss}\nOptions:\n{lines}\nPart of speech:")),
    Task("has_part", has_part, (
        "Which of these is a part of {word} ({gloss}): {options}?",
        "What belongs to {word}?\n{lines}\nAnswer:",
        "Choose from {options}.\nA part of {word} is",
        "Whole: {word}, {gloss}\nOptions:\n{lines}\nPart:")),
    Task("topic", topic, (
        "{word}: {gloss}\nWhich field is this word of: {options}?",
        "In what field does one speak of {word} ({gloss})?\n{lines}\nAnswer:",
        "Choose from {options}.\nA word that means \"{gloss}\" belongs to",
        "Word: {word}\nMeaning: {gloss}\nOptions:\n{lines}\nTopic:")),
    Task("instance", instance, (
        "{word}: {gloss}\nWhat is it: {options}?",
        "What is {word}?\n{lines}\nAnswer:",
        "Choose from {options}.\n{word} ({gloss}) is a",
        "Name: {word}\nDescription: {gloss}\nOptions:\n{lines}\nThis is a")),
    Task("similar", similar, (
        "Which adjective is nearest to {word} ({gloss}): {options}?",
        "Something that is {word} may also be called\n{lines}\nAnswer:",
        "Choose from {options}.\nSimilar to {word} is",
        "Adjective: {word}\nMeaning: {gloss}\nOptions:\n{lines}\nSimilar adjective:")),
    Task("derived", derived, (
        "Which word is of the same family as {word}: {options}?",
        "Find the word that is related to {word}:\n{lines}\nAnswer:",
        "Choose from {options}.\nFrom {word} one derives",
        "Word: {word}\nOptions:\n{lines}\nDerived from it:")),
    Task("reading", reading, (
        "{text}\n{question} Answer {options}.",
        "Read: {text}\nQuestion: {question}\n{lines}\nAnswer:",
        "Question: {question}\nText: {text}\nChoose from {options}. It is",
        "Glossary: {text}\nAsked: {question}\nOptions:\n{lines}\nThe word:")),
    Task("nli", entails, (
        "{premise}\n{hypothesis}\nIs this so: {options}?",
        "Given: {premise}\nClaim: {hypothesis}\nDoes the claim follow?\n{lines}\nAnswer:",
        "{premise} Does it follow that: {hypothesis} Answer {options}:",
        "Premise: {premise}\nHypothesis: {hypothesis}\nOptions:\n{lines}\nIs it true?")),
)
SENTIMENT = Task("sentiment", sentiment, (
    "{text}\n\nIs this review {options}?",
    "What is the sentiment of the following review?\n{text}\n{lines}\nSentiment:",
    "Choose from {options}.\nReview: {text}\nThis review is",
    "Review: {text}\nOptions:\n{lines}\nIts sentiment:"), trained=False)
# fmt: on
