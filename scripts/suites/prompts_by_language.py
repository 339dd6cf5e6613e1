"""Tasks of prompted data that are asked in a language about text of the suite `roots`.

which: the language of a passage; form: whether it is text or a program; word: the last word of a
passage, of two. Held out: same, whether two passages are of one language.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from suites.prompts import Question, Source, Task, pairs, passage, passages

ASKED = ("en", "es", "fr", "id", "pt")  # the languages that are asked in, and about
PROGRAMS = ("code_c", "code_python", "code_ruby")
Templates = tuple[str, str, str, str]


@dataclass(frozen=True)
class Wording:
    """How a language asks and answers."""

    names: tuple[str, ...]  # of ASKED
    forms: tuple[str, str]  # text, program
    answers: tuple[str, str]  # yes, no
    which: Templates
    form: Templates
    word: Templates
    same: Templates


WORDINGS = {
    "en": Wording(
        names=("English", "Spanish", "French", "Indonesian", "Portuguese"),
        forms=("text", "program"),
        answers=("yes", "no"),
        which=(
            "{text}\n\nWhich language is this?",
            "What is the language of the following text?\n{text}\nLanguage:",
            "Text: {text}\nThis text is in",
            "Read this: {text}\nWhich language is it? Answer:",
        ),
        form=(
            "{text}\n\nIs this a text or a program?",
            "What is the following?\n{text}\nIt is a",
            "Look: {text}\nThis is a",
            "Read this: {text}\nText or program? Answer:",
        ),
        word=(
            "{text} ...\nWhich word comes next: {words}?",
            "Words: {words}\nText: {text} ...\nThe next word is",
            "{text} ...\nIt goes on with one of {words}:",
            "One of {words} comes after: {text} ...\nAnswer:",
        ),
        same=(
            "First: {one}\nSecond: {two}\nAre both in the same language?",
            "{one}\n---\n{two}\n---\nThe same language, yes or no?",
            "Is the language of these two one?\n{one}\nand\n{two}\nAnswer:",
            "A: {one}\nB: {two}\nIs B in the language of A? Answer:",
        ),
    ),
    "es": Wording(
        names=("inglés", "español", "francés", "indonesio", "portugués"),
        forms=("texto", "programa"),
        answers=("sí", "no"),
        which=(
            "{text}\n\n¿En qué idioma está esto?",
            "¿Cuál es el idioma del texto siguiente?\n{text}\nIdioma:",
            "Texto: {text}\nEste texto está en",
            "Lee esto: {text}\n¿Qué idioma es? Respuesta:",
        ),
        form=(
            "{text}\n\n¿Es esto un texto o un programa?",
            "¿Qué es lo siguiente?\n{text}\nEs un",
            "Mira: {text}\nEsto es un",
            "Lee esto: {text}\n¿Texto o programa? Respuesta:",
        ),
        word=(
            "{text} ...\n¿Qué palabra sigue: {words}?",
            "Palabras: {words}\nTexto: {text} ...\nLa palabra siguiente es",
            "{text} ...\nContinúa con una de {words}:",
            "Una de {words} viene después de: {text} ...\nRespuesta:",
        ),
        same=(
            "Primero: {one}\nSegundo: {two}\n¿Están los dos en el mismo idioma?",
            "{one}\n---\n{two}\n---\nEl mismo idioma, ¿sí o no?",
            "¿Es uno solo el idioma de estos dos?\n{one}\ny\n{two}\nRespuesta:",
            "A: {one}\nB: {two}\n¿Está B en el idioma de A? Respuesta:",
        ),
    ),
    "fr": Wording(
        names=("anglais", "espagnol", "français", "indonésien", "portugais"),
        forms=("texte", "programme"),
        answers=("oui", "non"),
        which=(
            "{text}\n\nEn quelle langue est-ce écrit ?",
            "Quelle est la langue du texte suivant ?\n{text}\nLangue :",
            "Texte : {text}\nCe texte est en",
            "Lisez ceci : {text}\nQuelle langue est-ce ? Réponse :",
        ),
        form=(
            "{text}\n\nEst-ce un texte ou un programme ?",
            "Qu'est-ce que ce qui suit ?\n{text}\nC'est un",
            "Regardez : {text}\nCeci est un",
            "Lisez ceci : {text}\nTexte ou programme ? Réponse :",
        ),
        word=(
            "{text} ...\nQuel mot vient ensuite : {words} ?",
            "Mots : {words}\nTexte : {text} ...\nLe mot suivant est",
            "{text} ...\nLa suite est l'un de {words} :",
            "L'un de {words} vient après : {text} ...\nRéponse :",
        ),
        same=(
            "Premier : {one}\nSecond : {two}\nLes deux sont-ils dans la même langue ?",
            "{one}\n---\n{two}\n---\nLa même langue, oui ou non ?",
            "Ces deux textes ont-ils une seule langue ?\n{one}\net\n{two}\nRéponse :",
            "A : {one}\nB : {two}\nB est-il dans la langue de A ? Réponse :",
        ),
    ),
    "id": Wording(
        names=("Inggris", "Spanyol", "Prancis", "Indonesia", "Portugis"),
        forms=("teks", "program"),
        answers=("ya", "tidak"),
        which=(
            "{text}\n\nBahasa apa ini?",
            "Apa bahasa teks berikut?\n{text}\nBahasa:",
            "Teks: {text}\nTeks ini dalam bahasa",
            "Baca ini: {text}\nIni bahasa apa? Jawaban:",
        ),
        form=(
            "{text}\n\nApakah ini teks atau program?",
            "Apakah yang berikut ini?\n{text}\nIni adalah",
            "Lihat: {text}\nIni sebuah",
            "Baca ini: {text}\nTeks atau program? Jawaban:",
        ),
        word=(
            "{text} ...\nKata apa yang berikutnya: {words}?",
            "Kata-kata: {words}\nTeks: {text} ...\nKata berikutnya adalah",
            "{text} ...\nLanjutannya salah satu dari {words}:",
            "Salah satu dari {words} datang setelah: {text} ...\nJawaban:",
        ),
        same=(
            "Pertama: {one}\nKedua: {two}\nApakah keduanya dalam bahasa yang sama?",
            "{one}\n---\n{two}\n---\nBahasa yang sama, ya atau tidak?",
            "Apakah bahasa kedua teks ini satu?\n{one}\ndan\n{two}\nJawaban:",
            "A: {one}\nB: {two}\nApakah B dalam bahasa A? Jawaban:",
        ),
    ),
    "pt": Wording(
        names=("inglês", "espanhol", "francês", "indonésio", "português"),
        forms=("texto", "programa"),
        answers=("sim", "não"),
        which=(
            "{text}\n\nEm que língua está isto?",
            "Qual é a língua do texto seguinte?\n{text}\nLíngua:",
            "Texto: {text}\nEste texto está em",
            "Leia isto: {text}\nQue língua é? Resposta:",
        ),
        form=(
            "{text}\n\nIsto é um texto ou um programa?",
            "O que é o seguinte?\n{text}\nÉ um",
            "Veja: {text}\nIsto é um",
            "Leia isto: {text}\nTexto ou programa? Resposta:",
        ),
        word=(
            "{text} ...\nQue palavra vem a seguir: {words}?",
            "Palavras: {words}\nTexto: {text} ...\nA palavra seguinte é",
            "{text} ...\nContinua com uma de {words}:",
            "Uma de {words} vem depois de: {text} ...\nResposta:",
        ),
        same=(
            "Primeiro: {one}\nSegundo: {two}\nEstão os dois na mesma língua?",
            "{one}\n---\n{two}\n---\nA mesma língua, sim ou não?",
            "A língua destes dois é uma só?\n{one}\ne\n{two}\nResposta:",
            "A: {one}\nB: {two}\nB está na língua de A? Resposta:",
        ),
    ),
}


def tasks_in(language: str) -> tuple[Task, ...]:
    """Return the tasks as `language` asks them."""
    wording = WORDINGS[language]
    return (
        Task("which", partial(which, wording), wording.which),
        Task("form", partial(form, wording), wording.form),
        Task("word", partial(word, language), wording.word),
        Task("same", partial(same, wording), wording.same, trained=False),
    )


def which(wording: Wording, source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the language of a passage (classification)."""
    for name, text in passages({name: source.texts[name] for name in ASKED}, rng, 8):
        yield Question({"text": text}, wording.names, ASKED.index(name))


def form(wording: Wording, source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a passage is text or a program, each half of the time (classification)."""
    written = passages({name: source.texts[name] for name in ASKED}, rng, 8)
    programs = passages({name: source.texts[name] for name in PROGRAMS}, rng, 8)
    for pair in zip(written, programs, strict=False):
        for number, (_, text) in enumerate(pair):
            yield Question({"text": text}, wording.forms, number)


def word(language: str, source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of two words ends a passage of the language (QA with choices)."""
    documents = source.texts[language]
    for number in range(4 * len(documents)):
        text, _, last = passage(documents[number % len(documents)], rng).rpartition(" ")
        other = passage(rng.choice(documents), rng).rpartition(" ")[2]
        if text and last.isalpha() and other.isalpha() and last != other:
            choices = [last, other]
            rng.shuffle(choices)
            fields = {"text": text, "words": ", ".join(choices)}
            yield Question(fields, tuple(choices), choices.index(last))


def same(wording: Wording, source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether two passages are of one language (inference on pairs)."""
    for fields, alike in pairs({name: source.texts[name] for name in ASKED}, rng, 8):
        yield Question(fields, wording.answers, 1 - alike)
