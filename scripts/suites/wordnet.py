"""WordNet 3.0 as Debian's `wordnet-base` holds it: sets of synonyms, their glosses and relations.

The format is that of the manual page wndb(5WN), the names of the 45 lexicographer files those of
lexnames(5WN). Related sets go to one split together: a *block* is a piece of the tree of hypernyms.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from suites.documents import digest

# In the order of their numbers in the database.
LEXICOGRAPHERS = tuple(
    """adj_all adj_pert adv_all noun_tops noun_act noun_animal noun_artifact noun_attribute noun_body
    noun_cognition noun_communication noun_event noun_feeling noun_food noun_group noun_location
    noun_motive noun_object noun_person noun_phenomenon noun_plant noun_possession noun_process
    noun_quantity noun_relation noun_shape noun_state noun_substance noun_time verb_body verb_change
    verb_cognition verb_communication verb_competition verb_consumption verb_contact verb_creation
    verb_emotion verb_motion verb_perception verb_possession verb_social verb_stative verb_weather
    adj_ppl""".split()  # noqa: SIM905
)
HYPERNYM, INSTANCE_HYPERNYM, SIMILAR = "_hypernym", "_instance_hypernym", "_similar_to"
RELATIONS = {
    "@": HYPERNYM, "~": "_hyponym", "@i": INSTANCE_HYPERNYM, "~i": "_instance_hyponym",
    "#m": "_member_holonym", "%m": "_member_meronym", "#p": "_part_of", "%p": "_has_part",
    "#s": "_substance_holonym", "%s": "_substance_meronym", "+": "_derivationally_related_form",
    "&": SIMILAR, "$": "_verb_group", "^": "_also_see", ";c": "_synset_domain_topic_of",
    "-c": "_member_of_domain_topic", ";u": "_synset_domain_usage_of",
    "-u": "_member_of_domain_usage", ";r": "_synset_domain_region_of",
    "-r": "_member_of_domain_region", "!": "_antonym", "=": "_attribute", "*": "_entails",
    ">": "_causes", "<": "_participle", "\\": "_pertainym",
}  # fmt: skip
HELD_OUT = 0.1  # of a domain's sets, for valid and for test
_BLOCK, _BLOCKS_AT_LEAST = 30, 20  # sets in a block, and blocks of a small domain


@dataclass(frozen=True)
class Synset:
    """A set of synonyms: `key` is its place in the database and its part of speech (00001740n).

    `related` are pairs (relation, key of the other set) in the order of the database.
    """

    key: str
    domain: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    gloss: str
    related: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The entry as the forest reads it: words, and the gloss with its examples."""
        return f"{', '.join(self.words)}: {self.gloss}"

    def others(self, *relations: str) -> Iterator[str]:
        """Yield the keys of the sets that stand in one of `relations` to this one."""
        yield from (key for relation, key in self.related if relation in relations)


def synsets(files: Iterable[bytes]) -> dict[str, Synset]:
    """Read the sets of the database's files data.{noun,verb,adj,adv}, by key."""
    found = (
        _synset(line)
        for data in files
        for line in data.decode("latin-1").split("\n")
        if line and not line.startswith("  ")  # the licence stands at the head
    )
    return {each.key: each for each in found}


def _synset(line: str) -> Synset:
    fields, _, gloss = line.partition("|")
    at = fields.split()
    last = 4 + 2 * int(at[3], 16)
    words = (re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in at[4:last:2])
    pointers = at[last + 1 : last + 1 + 4 * int(at[last])]
    related = (
        (RELATIONS[symbol], key + _part(part))
        for symbol, key, part in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True)
    )
    gloss = re.sub(r"\s+", " ", gloss).strip(" ;")
    definition = re.split(r';? *"', gloss)[0].strip(" ;:,")
    return Synset(
        at[0] + _part(at[2]),
        LEXICOGRAPHERS[int(at[1])],
        tuple(dict.fromkeys(words)),
        definition or gloss,
        tuple(re.findall(r'"([^"]+)"', gloss)),
        gloss,
        tuple(dict.fromkeys(related)),
    )


def _part(part: str) -> str:
    return "a" if part == "s" else part  # a satellite is an adjective of the same file


def by_domain(known: Mapping[str, Synset]) -> dict[str, list[Synset]]:
    """Sort the sets by lexicographer file, each in the order of the database."""
    domains: dict[str, list[Synset]] = {name: [] for name in LEXICOGRAPHERS}
    for synset in known.values():
        domains[synset.domain].append(synset)
    return domains


def blocks(domain: Sequence[Synset]) -> list[list[Synset]]:
    """Cut a domain into blocks of about 30 related sets, smaller ones if it has few.

    A block is a set with all that is below it in the domain (hyponyms; satellites of an adjective)
    and in no block yet, once that is enough; what is left at the roots is joined in order.
    """
    size = max(1, min(_BLOCK, len(domain) // _BLOCKS_AT_LEAST))
    inside = {synset.key: synset for synset in domain}
    above = {key: _above(synset, inside) for key, synset in inside.items()}
    below: dict[str, list[str]] = defaultdict(list)
    for key, parent in above.items():
        below[parent].append(key)
    found, left = [], []
    pieces: dict[str, list[str]] = {}
    for key in _children_first(below):
        piece = [key, *(other for child in below[key] for other in pieces.pop(child, ()))]
        if len(piece) >= size:
            found.append(piece)
        elif above[key]:
            pieces[key] = piece
        else:
            left += piece
            if len(left) >= size:
                found.append(left)
                left = []
    if left:
        found.append(left)
    return [[inside[key] for key in sorted(piece)] for piece in found]


def _above(synset: Synset, inside: Mapping[str, Synset]) -> str:
    """Find the one set of the domain that a set hangs below; "" at a root.

    Two adjectives are similar to each other; the head of a cluster is the one with more of them.
    """
    for key in synset.others(HYPERNYM, INSTANCE_HYPERNYM):
        if key in inside:
            return key
    own = len(list(synset.others(SIMILAR)))
    for key in synset.others(SIMILAR):
        if key in inside and len(list(inside[key].others(SIMILAR))) > own:
            return key
    return ""


def _children_first(below: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the keys below "" so that each comes after all that are below it."""
    stack = [(key, False) for key in reversed(below.get("", ()))]
    while stack:
        key, seen = stack.pop()
        if seen or not below.get(key):
            yield key
        else:
            stack.append((key, True))
            stack += [(child, False) for child in reversed(below[key])]


def deal(domain: Sequence[Synset]) -> list[tuple[str, list[Synset]]]:
    """Deal the blocks of a domain to test and valid, a tenth of its sets each, and train.

    Blocks come in the order of their hashes; a large one is for training.
    """
    held_out = max(1, round(len(domain) * HELD_OUT))
    room = {"test": held_out, "valid": held_out}
    dealt = []
    for block in sorted(blocks(domain), key=lambda block: digest(block[0].key)):
        split = next(
            (name for name, left in room.items() if len(block) <= max(left, held_out // 3)), "train"
        )
        if split != "train":
            room[split] -= len(block)
            if room[split] <= 0:
                del room[split]
        dealt.append((split, block))
    return dealt


def split_of(domains: Mapping[str, Sequence[Synset]]) -> dict[str, str]:
    """Map the key of each set to the split that its block is in."""
    return {
        synset.key: split
        for domain in domains.values()
        for split, block in deal(domain)
        for synset in block
    }
