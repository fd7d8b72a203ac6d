"""What of a drawing prompt asks for something to be seen. What is told beside it is left out, and colors stand beside their shapes.

    asked("I am a tailor. Show me two dresses.")              "two dresses."
    asked("my sister wants a dog for her birthday card")      "a dog"
    asked("two hearts, one red and one brown")                "one red heart and one brown heart"
    asked("a cat with pink behind it")                        "a cat on a pink background"
    asked("a zeppelin and a dog for my wife")                 "a zeppelin and a dog"

Words of this world and words that it lacks are treated alike. A sentence is told if somebody or the day is its subject and it has no wish.
It is left out only where another part names something that can be drawn. Sentences of the grammar stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from mmada.generation.lexicon import Lexicon
from mmada.worlds.emoji.grammar import parse
from mmada.worlds.emoji.lexicon import lexicon
from mmada.worlds.emoji.objects import SHAPES, objects
from mmada.worlds.emoji.plans import needs_thought
from mmada.worlds.emoji.reading import in_colours, known_nouns, noun_pattern, spelled
from mmada.worlds.emoji.scenes import BACKGROUNDS

__all__ = ["asked", "is_asked_for"]


def _any(*phrases: str) -> str:
    return f"(?:{'|'.join(phrases)})"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


_WHOSE = _any("my", "our", "his", "her", "their", "your", "[a-z]+'s")
_SOMEBODY = _any(
    "i", "i'?m", "i'?ve", "i'd", "i'll", "we", "we'?re", "we've", "he", "he's", "she", "she's", "they", "they're", "you", "you're", "nobody",
    "somebody", "everybody", "today", "tomorrow", "yesterday", "tonight", "it", "it's", "this", "that", "that's", "there's", "m[ou]m",
    "mommy", "dad", "daddy", "grand(?:m|p)a", "mrs?", "ms", _WHOSE,
)  # fmt: skip
_FIRST = _any("hi", "hello", "hey", "ok", "okay", "so", "and", "but", "well", "anyway", "oh", "hmm", "now", "please", "sorry")
_WHY = _any("for", "as", "to", "on behalf of", "because(?: of)?", "since", "after", "before", "during", "while", "when", "if", "in", "at")
_TELLS = _compiled(rf"^(?:{_FIRST}\b[,!]?\s+)*(?:{_WHY}\s+)?{_SOMEBODY}\b")
"""How a sentence begins that is about somebody, the weather or the day."""
_IS = _any("is", "are", "was", "were", "has", "have", "says?", "said", "keeps?", "barks?", "starts?", "needs?", "wants?", "would", "asked")
_SAYS = _compiled(rf"^(?!(?:and |plus |or )?(?:an? |one |two |three |four |\d))[\w' -]+? {_IS}\b")
_SCENE = _compiled(
    r"^(?!(?:and |plus |or )?(?:an? |one |two |three |four |some |\d|draw |paint |show )).*\b(?:"
    r"at|in|after|before|for|here|today|tonight|tomorrow|yesterday|soon|again|next|last|"
    r"weekend|week|month|year|morning|afternoon|evening|night|[a-z]+day)\b"
)
"""How it is said without a subject where somebody is, and when: "bored at the airport"."""
_CIVIL = _compiled(
    r"^(?:and |but )?(?:hurry|"
    r"thanks?|thx|ty|cheers|please|hi|hello|hey|good (?:morning|evening|day|night|afternoon|luck)|greetings?|happy|merry|have a|see you|bye|"
    r"god bless|take your time|no rush|nice to|dear|sorry|excuse me|welcome|congratulations|best)\b"
)
"""How civil phrases begin that ask for nothing."""
_WISH = _any(
    "want(?:s|ed)?", "needs?", "wish(?:es|ed)?(?: for)?", "hop(?:e|es|ing) for", "ask(?:s|ed|ing)? (?:me |us |you )?for", "voted for", "ch[o]+se",
    "(?:would|'d) (?:really |so )?(?:like|love|enjoy)", "could (?:really )?use", "requests?", "fanc(?:y|ies)", "crav(?:e|es|ing)", "looking for",
    r"promised(?: \w+)?", "gets",
    "thinking of", "draw", "paint", "sketch", "doodle", "show", "render", "create", "generate", "illustrate", "make", "give", "gimme", "send",
    "design", "display", "produce", "depict", "portray", "(?:ask|beg|call|cry|shout)(?:s|ing|ed)? for",
    "(?:can|could|may|might|let) (?:i|we|me|us) (?:please )?(?:have|get|see)", "(?:surprise|treat|reward) (?:me|us) (?:with|to)",
    "(?:i|we|he|she|they) (?:can|could|may|might) have",
)  # fmt: skip
_WITH_WISH = _compiled(rf"^(?P<told>.*?)\b{_WISH}\b(?P<rest>.*)$")
_TO_WHOM = _compiled(
    r"^(?:\s+(?:me|us|him|her|them|for me|please|now|to (?:see|have|get|draw)|(?:him|her|you) to draw|that you draw|a (?:picture|drawing|image) (?:of|with)))*"
    r"[\s:,]+"
)
_FIRST_WHY = _compiled(rf"^(?:{_FIRST}\b[,!]?\s+)*{_WHY}\b[^,:]*[,:]\s+")
_FIRST_WHOM = _compiled(rf"^for {_WHOSE}(?: [\w']+){{1,2}}? (?=(?:an?|one|two|three|four|\d|at|in|on)\b)")
_WHOM = _compiled(rf"\bfor {_WHOSE}\b")
_HEADING = _compiled(r"^[^:,]*:\s+")
_PICTURE_OF = _compiled(
    r"^(?:an? |one |my |our |the )?(?:(?:nice|quick|little|cute|simple|small|lovely|pretty|tiny|funny|app|emoji) )*"
    r"(?:picture|drawing|painting|image|doodle|sketch|illustration|icon|logo|sticker)(?: idea)?(?: of|:|,| with| showing)\s+"
)
"""How it is said that a picture is wanted, before what it is to show: "app icon idea, a key"."""
_FOR_WHOM = _compiled(
    rf"[\s,]+for (?:{_WHOSE}|me|us|you|him|her|them|everyone|everybody|the|an?|this|that|school|work|class|church|"
    r"m[ou]m(?:my)?|dad(?:dy)?|gran(?:ny)?|grand(?:m|p)a|(?:uncle|aunt(?:ie)?|mrs?|ms|miss) \w+)\b.*$"
)
_REASON = _compiled(
    r"[\s,]+(?:because|since|so that|so (?:it|i|we|my|he|she|they))\b.*$|"
    r"\s+as an? (?:template|present|gift|surprise|emoji|joke|reward|poster|sticker|card|logo|icon)\b.*$|"
    r"\s+to (?:celebrate|cheer|thank|decorate|practi[cs]e|brighten|impress|help|remember|welcome|congratulate|surprise)\b.*$|"
    r"\s+all (?:day|night|week|morning|afternoon|evening)\b|"
    r"\s+would (?:be|make|help|cheer|brighten)\b.*$"
)
_OWNED = _compiled(r"^(?:and |plus |or )?(?:my|our|his|her|their|your) [\w'-]+(?: [\w'-]+)?\W*$")
"""A thing of somebody's that is listed: "a dog, and my bicycle"."""
_EXCLAIMS = _compiled(r"^what an? ")
_IT = _compiled(r"^\s*(?:it|this|that|them|these|those)\b")
"""What is wished for where another sentence names it: "We need it for the menu."."""
_NOT = _compiled(r"\b(?:don'?t|do not|does not|doesn't|not|never|no)\s*$")
_A_THING = _compiled(r"^(?:an?|one|two|three|four|some|\d+)\b")
_COLOURS = _any(*sorted(map(re.escape, (*BACKGROUNDS, "grey")), key=len, reverse=True))
_PLAINLY = r"(?:(?:an?|the|all|plain|solid|simple|pure|clean|light|soft|nice|pretty|just) )*"
_ALL_COLOURS = frozenset(
    {thing.colour for thing in objects().values() if thing.colour} | {"pink", "gray", "grey", "golden", "silver", "turquoise"}
)
_BEHIND = _compiled(
    rf"[\s,.]*\b(?:and )?(?:with|in front of|before|against|on|(?:with )?everything)\s+{_PLAINLY}({_COLOURS})"
    r"(?:\s+(?:behind (?:it|them|that)|background|backdrop)\b|"
    r"(?=\W*$|[,.!?;]|\s+(?:for|please|pls|pretty please|would|because|so|as)\b))|"
    rf"[\s,.;]*\b(?:and |make |use |let |with )*(?:the |a )?background(?: colou?r)?(?:\s*(?:is|should be|must be|be|in|to|:))*\s*{_PLAINLY}({_COLOURS})\b"
)
_ORANGE = _compiled(
    r"\borange(?= (?:background|backdrop|behind (?:it|them))\b)|(?<=background )orange\b|"
    r"(?<=background should be )orange\b|(?<=background is )orange\b|(?<=background in )orange\b|"
    r"(?<=\bon )orange(?=\W*$| for\b| please\b| pls\b| with\b)"
)
"""A color that no background has, where the word is no fruit."""
_BACKDROP = _compiled(rf"\bon an? {_COLOURS} background\b|\bbackground\b|\bbackdrop\b")
_PLACE = _compiled(r"\b(?:top|bottom|left|right|upper|lower|middle|center|centre)\b")
_NEXT = _compiled(
    r"\s*(?:\b(?:and|with|plus|but no|without|next to|beside|above|below|under|over)\b|[&+,])\s*(?:(?:an?|one|two|three|four|the|some|\d)\s+)?(?:\w+\s+)??"
)
_DRAWN_OUT = re.compile(r"([a-z])\1{2,}", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;)])\s+(?=\S)|\s+[-\u2013\u2014]\s+")


def asked(prompt: str) -> str:
    """The part of a prompt that asks for something to be seen; the prompt itself where that cannot be told."""
    if parse(prompt) is not None or (needs_thought(spelled(prompt)) and not _lexicon().unknown(prompt)):
        return prompt
    said = _plainly_coloured(" ".join(_DRAWN_OUT.sub(r"\1", prompt.replace("\u2019", "'")).split()))
    parts = [part for part in _SENTENCES.split(said) if part]
    wanted = [part for part in parts if _names(part) and not _is_told(part) and not _is_about_another(part, parts)]
    if not wanted and not (wanted := [part for part in parts if _names(part)]):
        return prompt
    strange = [part for part in parts if not _names(part) and not _is_told(part) and not _CIVIL.match(part) and not _is_an_end(part)]
    return _spelled(" ".join(_wanted(part) for part in parts if part in wanted or part in strange))


def _spelled(said: str) -> str:
    """A text with the names of objects as they are spelled, and numbers apart from their sign, as in "3x"."""
    said = re.sub(r"\b(\d)x\b", r"\1 x", re.sub(r"\bx(\d)\b", r"x \1", said))
    return re.sub(r"[A-Za-z]{5,}", lambda match: match.group() if (word := spelled(match.group())) == match.group().lower() else word, said)


@cache
def _lexicon() -> Lexicon:
    return lexicon()


def _names(part: str) -> bool:
    """Whether a part names an object of this world, or a shape."""
    said = spelled(part)
    return bool(noun_pattern().search(said)) or any(re.search(rf"\b{shape}s?\b", said) for shape in SHAPES)


def _is_told(part: str) -> bool:
    """Whether a sentence is about somebody, or somewhere where nothing of this world is, and wishes for nothing."""
    wish = _WITH_WISH.match(part)
    if wish is not None and _TELLS.match(part) and not _names(part) and not _lexicon().unknown(wish["rest"]):
        return True  # "my school needs a picture", without saying of what
    if wish is not None and _TELLS.match(part) and _IT.match(wish["rest"]) and not _belongs(part):
        return True
    if _BACKDROP.search(part) or wish is not None:
        return False
    return bool(_TELLS.match(part)) or (not _names(part) and bool(_SAYS.match(part) or _SCENE.match(part) or _EXCLAIMS.match(part)))


def _is_an_end(part: str) -> bool:
    """Whether a part says for whom or why, cut off from what it belongs to: "(no rockets) would help me explain a word"."""
    return bool(_FOR_WHOM.match(f" {part}") or _REASON.match(f" {part}"))


def is_asked_for(prompt: str, phrase: str) -> bool:
    """Whether an unknown phrase stands where a thing is asked for: counted ("a car"), alone in a list ("a dog, car and cat"), or a color."""
    said, words = prompt.lower(), re.escape(phrase)
    counted = re.search(rf"\b(?:an?|one|two|three|four|some|\d+) {words}\b", said)
    listed = re.search(rf"(?:^|[,+&]|\band|\bplus)\s*{words}\s*(?:$|[,+&]|\band\b|\bplus\b|\balong with\b)", said)
    return bool(counted or listed) or any(word.removesuffix("-colored") in _ALL_COLOURS for word in phrase.split())


def _is_about_another(part: str, parts: Sequence[str]) -> bool:
    """Whether a sentence tells of a thing that no other names: "The school bus is late." and "My house needs a roof." beside "Draw a dog." """
    if _BACKDROP.search(part) or _PLACE.search(part):
        return False
    wish = _WITH_WISH.match(part)
    if wish is None and not _SAYS.match(part):
        return False
    if wish is not None and (not _TELLS.match(part) or _names(wish["rest"])):
        return False
    others = " ".join(other for other in parts if other is not part)
    return _names(others) and not _nouns(part) & _nouns(others)


def _nouns(said: str) -> set[str]:
    return {known_nouns()[match.group()][0] for match in noun_pattern().finditer(spelled(said))}


def _wanted(part: str) -> str:
    """A sentence without what is told in it: who asks, for whom, and why."""
    part = _behind_a_wish(part)
    heading = _PICTURE_OF.match(part)
    if heading is not None and _names(part[heading.end() :]):
        part = part[heading.end() :]
    for pattern in (_FIRST_WHY, _HEADING, _FIRST_WHOM):
        match = pattern.match(part)
        if match is not None and _names(part[match.end() :]) and (_WHOM.search(match.group()) or not _belongs(match.group())):
            part = part[match.end() :]
    clauses = re.split(r",\s+(?=\S)", part)
    kept = [clause for i, clause in enumerate(clauses) if _OWNED.match(clause) or not (_is_told(clause) or (i and _CIVIL.match(clause)))]
    part = ", ".join(kept) if any(map(_names, kept)) else part
    return _without(_REASON, _without(_FOR_WHOM, part))


def _belongs(said: str) -> bool:
    """Whether something is about the picture: a thing, a place or a background."""
    return _names(said) or bool(_BACKDROP.search(said) or _PLACE.search(said))


def _behind_a_wish(part: str) -> str:
    """What follows "my sister wants", or "I have a shop and need"."""
    match = _WITH_WISH.match(part)
    if match is None or not _names(match["rest"]):
        return part
    told, rest = match["told"], match["rest"]
    if _NOT.search(told) or not (not told.strip() or _TELLS.match(told) or (not _names(told) and not _A_THING.match(told))):
        return part
    whom = _TO_WHOM.match(rest)
    return _behind_a_wish(rest if whom is None else rest[whom.end() :])


def _without(pattern: re.Pattern[str], part: str) -> str:
    """A sentence without its end from a pattern on, but with what belongs to the picture behind that."""
    match = pattern.search(part)
    if match is None or not _names(part[: match.start()]):
        return part
    told = match.group()
    if pattern is _FOR_WHOM and _is_for_a_thing(told):
        return part
    ends = [found.start() for found in (_BACKDROP.search(told),) if found is not None]
    for found in _NEXT.finditer(told):
        noun = noun_pattern().match(spelled(told[found.end() :]))
        ends += [found.start()] if noun is not None else []
    return f"{part[: match.start()]} {told[min(ends) :].strip()}".strip() if ends else part[: match.start()]


def _is_for_a_thing(told: str) -> bool:
    """Whether "for a dog" is about a thing that can be drawn too; "for the t-shirt print" and "for my cat" are not."""
    if re.match(rf"\W*for {_WHOSE}\b", told, re.IGNORECASE):
        return False
    head = spelled(re.split(r"[,.!?;]|\band\b", told.strip(" ,."))[0]).strip()
    nouns = list(noun_pattern().finditer(head))
    return bool(nouns) and nouns[-1].end() == len(head)


def _plainly_coloured(said: str) -> str:
    """Colors beside their shapes, and the background in the words of the grammar."""
    said = _ORANGE.sub("orange-colored", re.sub(r"\bbg\b", "background", said, flags=re.IGNORECASE))
    said = _BEHIND.sub(lambda match: f" on a {_spelled_colour(match[1] or match[2])} background", said)
    lowered = said.lower()
    coloured = in_colours(lowered)
    return said if coloured == lowered else coloured


def _spelled_colour(colour: str) -> str:
    return "gray" if colour.lower() == "grey" else colour
