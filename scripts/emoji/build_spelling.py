"""Write natural/english.txt: the words of English that are one slip from a word that was taught, and so must not be read as it.

    npm pack dictionary-en && tar xzf dictionary-en-*.tgz && pip install wordfreq
    python scripts/emoji/build_spelling.py package
    python scripts/emoji/build_lexicon.py ...            copies them into the checkpoints

The words are those of a Hunspell dictionary (SCOWL), of our lists and of our names. A rare word is left out, if what it is near to is very
much oftener written: "wold" is a slip of "would".
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from wordfreq import zipf_frequency

from mmada.generation.speller import edit_of, without_a_letter
from mmada.worlds.emoji.natural.spelling import LEAST_LETTERS, listed_words, taught_words

RARE, OFTENER = 3.0, 3.5
"""Zipf frequencies: log10 of how often a word is among a billion."""
OUT = Path(__file__).parents[2] / "mmada/worlds/emoji/natural/english.txt"


def forms(dictionary: Path) -> Iterator[str]:
    """Every word of a Hunspell dictionary with its affixes, without abbreviations in capitals."""
    affixes: dict[str, list[tuple[str, str, str, str]]] = {}
    for line in (dictionary / "index.aff").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[:1] in (["SFX"], ["PFX"]) and len(fields) > 4:
            affixes.setdefault(fields[1], []).append((fields[0], fields[2].strip("0"), fields[3], fields[4]))
    for line in (dictionary / "index.dic").read_text(encoding="utf-8").splitlines()[1:]:
        word, _, flags = line.partition("/")
        if re.fullmatch("[A-Z]?[a-z]+", word):
            rules = [rule for flag in flags for rule in affixes.get(flag, ())]
            ends = [word.removesuffix(off) + end for kind, off, end, before in rules if kind == "SFX" and re.search(f"{before}$", word)]
            yield from (
                form.lower()
                for form in (word, *ends, *(start + form for kind, _, start, _ in rules if kind == "PFX" for form in (word, *ends)))
            )


def near(words: Mapping[str, int]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        for rest in without_a_letter(word):
            found.setdefault(rest, []).append(word)
    return found


def main(dictionary: Annotated[Path, typer.Argument(help="Folder with index.aff and index.dic.")]) -> None:
    """Write the list."""
    taught, listed = taught_words(), listed_words()
    remains = near(taught)
    kept, rare = set(), set()
    for word in {*forms(dictionary), *listed}:
        if len(word) <= LEAST_LETTERS or not word.isalpha() or word in taught:
            continue
        like = {
            other
            for rest in without_a_letter(word)
            for other in remains.get(rest, ())
            if other[0] == word[0] and edit_of(word, other) is not None
        }
        if not like:
            continue
        own, oftenest = zipf_frequency(word, "en"), max(zipf_frequency(other, "en") for other in like)
        (rare if own < RARE and oftenest - own >= OFTENER and word not in listed else kept).add(word)
    OUT.write_text("\n".join(textwrap.wrap(" ".join(sorted(kept)), 130)) + "\n", encoding="utf-8")
    typer.echo(f"{len(kept)} words, {OUT.stat().st_size} bytes; {len(rare)} rare ones left out, such as {', '.join(sorted(rare)[:20])}")


if __name__ == "__main__":
    typer.run(main)
