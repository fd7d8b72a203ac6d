"""The token order of every task, written once. Training rows and inference prompts come from the same functions.

    lm            [bos] text [eos] fill                                                             everything maskable
    infill        [bos] text | text | text … [eos]                                                  every second piece
    chat          [bos] <header>user</header> \n question <eot> <header>assistant</header> | answer [eos] fill
    understand    [mmu] [soi] codes [eoi] chat                                                      the answer
    interview     [mmu] [soi] codes [eoi] question | answer <eot> | question | answer <eot> | …       all answers
    text to image [t2i] [bos] text [eos] [soi] | codes | [eoi]                                      the codes
    reason, draw  [r2i] chat | thinking and refined prompt | [soi] | codes | [eoi]                  both, as two fields

Everything right of a bar is maskable: open when sampling, noised when training. Codes are shifted by `layout.image_offset`.
In training rows the newline behind the assistant header belongs to the answer, as published; inference prompts give it.
User text never becomes a special token: only the functions that take ready-made dialogue text (`trusted`) parse them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mmada.canvas.canvas import Canvas, Field
from mmada.canvas.vocab import IdRange, VocabLayout
from mmada.errors import InputError, suggest

__all__ = [
    "DRAW_THINKING_INSTRUCTION",
    "THINKING_INSTRUCTION",
    "Hole",
    "Message",
    "Pads",
    "Prompts",
    "Style",
    "Thought",
    "Tokenizer",
    "join_thinking",
    "split_thinking",
]

THINKING_INSTRUCTION = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. The reasoning process is "
    "enclosed within <think> </think> tags, i.e. <think> reasoning process here </think> answer here\n"
)
"""Goes before the question, newline included (published)."""

DRAW_THINKING_INSTRUCTION = (
    "You should first think out a more detailed version of the description and then provide the user with the image. The detailed "
    "description is enclosed within <think> </think> tags, i.e. <think> detailed description here </think> image here\n"
)

_TAG = re.compile("</?think>")
_BEGUN_TAG = re.compile("</?(t(h(i(nk?)?)?)?)?$")
_SPACES = re.compile(r"\s+")

Separator = Literal["token", "literal"]
Whitespace = Literal["kept", "single"]
Pads = Literal["hidden", "visible"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: role "user", "assistant" or "system", and its text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Hole:
    """An opening of `num_tokens` in a text to be filled."""

    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a checkpoint was taught to be spoken to.

    separator  "token": turns end with the special token <|eot_id|>; "literal": with the text <eot_id>, as most of the published
               training strings have it
    thinking, draw_thinking  what goes before the question to ask for thinking
    whitespace  of what a user writes, at inference and in training rows alike. "kept": as published; "single": each run of spaces, line ends,
                tabs and no-break spaces becomes one space, for models that were taught texts without them
    """

    separator: Separator = "token"
    thinking: str = THINKING_INSTRUCTION
    draw_thinking: str = DRAW_THINKING_INSTRUCTION
    whitespace: Whitespace = "kept"

    def __post_init__(self) -> None:
        if self.separator not in get_args(Separator):
            raise InputError(f"separator={self.separator!r} is unknown: {suggest(str(self.separator), get_args(Separator))}")
        if self.whitespace not in get_args(Whitespace):
            raise InputError(f"whitespace={self.whitespace!r} is unknown: {suggest(str(self.whitespace), get_args(Whitespace))}")

    def spaced(self, text: str) -> str:
        """A whole text of a user, with its white space as the checkpoint knows it."""
        return text if self.whitespace == "kept" else self.spaced_part(text).strip()

    def spaced_part(self, text: str) -> str:
        """The same of a part of a text, whose ends may be spaces between words."""
        return text if self.whitespace == "kept" else _SPACES.sub(" ", text)


@dataclass(frozen=True, slots=True)
class Thought:
    """An answer taken apart. thinking is None if there is no tag; closed is False if </think> is missing."""

    thinking: str | None
    answer: str
    closed: bool = True


def join_thinking(thinking: str | None, answer: str) -> str:
    """The text that `split_thinking` takes apart; None is an answer alone."""
    return answer if thinking is None else f"<think> {thinking}</think> {answer}".rstrip()


def split_thinking(text: str) -> Thought:
    """Take "<think> … </think> answer" apart; no tag is left in either part.

    What stands before a lone </think> is thinking: models leave the first tag out, above all where the prompt asked for thoughts.
    Unclosed thinking is all thinking, with an empty answer.
    """
    before, opened, rest = text.partition("<think>")
    if "</think>" in before:
        thinking, _, answer = text.partition("</think>")
        return Thought(without_tags(thinking).strip(), without_tags(answer).strip())
    if not opened:
        return Thought(None, text.strip())
    thinking, closed, answer = rest.partition("</think>")
    return Thought(without_tags(thinking).strip(), around_thinking(before, answer).strip(), bool(closed))


def without_tags(text: str) -> str:
    """The text with a space in the place of each <think> and </think>, so that what stood around it makes no new tag."""
    return _TAG.sub(" ", text)


def around_thinking(before: str, answer: str) -> str:
    """What stands before a thought and what stands behind it, without tags, and without one that they would make together."""
    return before + (" " if _BEGUN_TAG.search(before) else "") + without_tags(answer)


class Tokenizer(Protocol):
    """What prompts ask of a text tokenizer; hub/text_tokenizer.py is the one that the package uses."""

    def __len__(self) -> int: ...

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        ...

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Ids of a text, nothing added. special_tokens: strings such as <|eot_id|> become the one token of that name."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids. skip_special_tokens leaves out tokens that are no text."""
        ...


@dataclass(frozen=True, slots=True)
class Prompts:
    """Builds canvases for one model. All text goes through `tokenizer`, all ids come from `layout`.

    This is the order of MMaDA; other families change what differs (families/). Codes of an image are (N,), or (h, w) where the vocabulary
    has a newline that stands after each row. Raises InputError for a task whose tokens the vocabulary does not have.
    """

    layout: VocabLayout
    tokenizer: Tokenizer
    style: Style = field(default_factory=Style)

    after_header: ClassVar[str] = "\n"
    """what stands between the header of a turn and its text"""
    has_headers: ClassVar[bool] = True
    """whether turns stand behind headers at all"""
    own_template: ClassVar[str | None] = None
    """without headers: the chat template of these prompts (hub/chat_template.py); None: that of the tokenizer's files says how turns are laid out"""
    follows_files: ClassVar[bool] = False
    """whether a chat template in the tokenizer's files stands over these prompts"""

    @property
    def begin(self) -> list[int]:
        """What a row begins with: the begin token, if there is one."""
        return [] if self.layout.bos_id is None else [self.layout.bos_id]

    def shaped(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes of an image of (h, w) tokens as its rows take them: (h, w) where a newline stands after each, or else in one run, (N,).

        Raises InputError if there are more or fewer codes than rows of them need.
        """
        if self.layout.newline_id is None:
            return codes.flatten()
        if codes.numel() != grid[0] * grid[1]:
            raise InputError(
                f"{codes.numel()} codes do not make an image of {grid[0]}x{grid[1]} tokens (height x width); encode it at the checkpoint's size"
            )
        return codes.reshape(grid)

    # Text to ids.

    def encode(self, text: str, *, trusted: bool = False) -> list[int]:
        """Ids of a text, without begin or end token. trusted: strings such as <|eot_id|> become special tokens.

        Raises InputError for half a surrogate pair, as which Python reads bytes of a command line that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"text={ascii(text)[:60]} holds what is no character (half a surrogate pair); give UTF-8") from error
        return self.tokenizer.encode(text, special_tokens=trusted)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text up to the first end token; other special tokens and image codes are left out."""
        values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        ends = [i for i, value in enumerate(values) if value in self.layout.end_ids]
        kept = [v for v in values[: ends[0] if ends else None] if v < self.layout.image_offset]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    def dialogue(self, messages: Sequence[Message], *, thinking: str | None = None) -> list[int]:
        """[bos], the turns, and the assistant's header with its one newline. `thinking` goes before the last user turn.

        Special tokens split a text before it is tokenized, so that this equals tokenizing the whole formatted string, but that
        nothing a user writes is taken for a special token.
        Raises InputError if there is no message, the last is not the user's, a role is unknown, or a content is empty.
        """
        if not messages or messages[-1].role != "user":
            raise InputError(f"the last of {len(messages)} messages must be the user's; add the question")
        ids = self.begin
        for i, message in enumerate(messages):
            if message.role not in ("system", "user", "assistant"):
                raise InputError(f"role={message.role!r} of message {i} is unknown; use system, user or assistant")
            content = self.style.spaced(message.content).strip()
            if not content:
                raise InputError(f"content='' of message {i} is empty; write a prompt")
            if thinking and i == len(messages) - 1:
                content = thinking + content
            literal = self.style.separator == "literal"
            ids += self._header(message.role)
            ids += self.encode(self.after_header + content + ("<eot_id>" if literal else ""))
            ids += [] if literal else [self.layout.special("eot")]
        return [*ids, *self._header("assistant"), *self.encode(self.after_header)]

    def insert_images(self, dialogue: Sequence[int], images: Sequence[Tensor]) -> list[int]:
        """A dialogue with the images that it is about, which stand before it."""
        return [*self._images(images), *dialogue]

    def _header(self, role: str) -> list[int]:
        return [self.layout.special("start_header"), *self.encode(role), self.layout.special("end_header")]

    # Training rows: clean tokens; the fields are what may be masked.

    def lm(self, text: str, *, length: int) -> Canvas:
        """Plain text, filled with end tokens; longer text is cut. Everything is maskable (published layout 3.3)."""
        return self._answer([], self._filled(self._wrap(self.encode(text)), length))

    def lm_chat(self, text: str, *, length: int) -> Canvas:
        """A dialogue as one ready-made text (`trusted`): maskable from the last header on (3.4)."""
        return self._after_last_header([], self._filled(self._wrap(self.encode(text, trusted=True)), length))

    def mmu(self, codes: Tensor, text: str, *, text_length: int) -> Canvas:
        """An image and a dialogue as one ready-made text of exactly text_length tokens (3.5, 3.8)."""
        ids = self._filled(self._wrap(self.encode(text, trusted=True)), text_length, keep_end=True)
        return self._after_last_header([self.layout.special("mmu"), *self._image(codes)], ids)

    def t2i(
        self, codes: Tensor, text: str, *, text_length: int | None = None, pads: Pads = "hidden", is_open: Tensor | None = None
    ) -> Canvas:
        """A caption and its image (3.1); text "" is the dropped condition.

        codes        (N,) int64 in 0..codebook_size-1
        text_length  T: left-pad the text part to T + 1 tokens, cutting longer text; None: no padding
        pads         whether padding is attended to: the published weights saw theirs, HEAD's sampler hides it
        is_open      (N,) bool: which codes are maskable; None: all
        """
        if is_open is not None and is_open.shape != codes.shape:
            raise InputError(f"is_open has the shape {tuple(is_open.shape)}, codes {tuple(codes.shape)}; give one value for each code")
        layout = self.layout
        ids = [layout.special("t2i"), *self._wrap(self.encode(self.style.spaced(text)))]
        padding = 0
        if text_length is not None:
            if len(ids) > text_length + 1:
                ids = [*ids[:text_length], layout.eos_id]
            padding = text_length + 1 - len(ids)
        head = [layout.special("pad")] * padding + ids if padding else ids
        opened = torch.ones(codes.shape, dtype=torch.bool) if is_open is None else is_open.cpu()
        tokens = torch.tensor(head + self._image(codes))
        attend = torch.ones(len(tokens), dtype=torch.bool)
        attend[:padding] = pads == "visible"
        return Canvas(tokens, attend, (self._image_field(len(head) + 1, opened),))

    def r2i(self, codes: Tensor, text: str, *, text_length: int) -> Canvas:
        """Thinking, then an image: fields text and codes (3.7). `text` is a ready-made dialogue, filled to text_length tokens."""
        ids = self._filled(self._wrap(self.encode(text, trusted=True)), text_length, keep_end=True)
        return self._with_image(self._after_last_header([self.layout.special("r2i")], ids), codes)

    def interview(self, messages: Sequence[Message], *, images: Sequence[Tensor] = ()) -> Canvas:
        """A whole conversation, with or without images; every turn of the assistant is maskable, with the token that ends it.

        Earlier turns end as `dialogue` has them, the last as an answer does.

        Raises InputError if the last turn is not the assistant's, or for what `dialogue` refuses.
        """
        if not messages or messages[-1].role != "assistant":
            raise InputError(f"the last of {len(messages)} messages must be the assistant's; add the answer")
        ids = self._images(images)
        positions: list[int] = []
        start = 0
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            head = self.dialogue(messages[start:i])
            ids += head if start == 0 else head[len(self.begin) :]  # one begin token
            end = self.layout.eos_id if message is messages[-1] else self.layout.special("eot")
            answer = [*self.encode(message.content), end]
            positions += range(len(ids), len(ids) + len(answer))
            ids += answer
            start = i + 1
        return self._canvas(ids, Field(torch.tensor(positions), self.layout.text_ids, len(positions)))

    def pieces(self, texts: Sequence[str]) -> Canvas:
        """A text in pieces: the first is given, the second maskable, the third given, and so on. Raises InputError if nothing is maskable."""
        learned = [self.encode(text) for text in texts[1::2]]
        if not any(learned):
            raise InputError(f"texts={list(texts)!r} leave nothing to fill; every second one is to be learned")
        canvas = self.infill([Hole(len(learned[i // 2])) if i % 2 else text for i, text in enumerate(texts)])
        ids = torch.tensor([i for piece in learned for i in piece])
        return replace(canvas, tokens=canvas.tokens.index_copy(0, canvas.fields[0].positions, ids))

    # Prompts for inference, where open positions hold the mask; with an `answer`, or with `codes`, the training row of the same prompt.

    def chat(
        self,
        messages: Sequence[Message],
        num_new: int,
        *,
        images: Sequence[Tensor] = (),
        thinking: bool = False,
        answer: str | None = None,
        ids: IdRange | None = None,
    ) -> Canvas:
        """A question, with or without images, and num_new open positions for the answer (3.9).

        images  codes (N,) of each image, all before the dialogue
        answer  what stands in the open positions, filled with end tokens; None: masks
        ids     what the answer may contain; default: text
        Raises InputError if the answer and its end token do not fit.
        """
        prefix = self.insert_images(self.dialogue(messages, thinking=self.style.thinking if thinking else None), images)
        return self._answer(prefix, self.answer_ids(num_new, answer), ids)

    def draw(
        self, text: str, codes: Tensor, *, is_open: Tensor | None = None, text_length: int | None = None, pads: Pads = "hidden"
    ) -> Canvas:
        """A prompt and an image to fill (3.2): where is_open (N,) is False, the given codes stay. "" is the unconditional row.

        Its training row is `t2i`.
        """
        return self.t2i(codes, text, text_length=text_length, pads=pads, is_open=is_open).masked(self.layout.mask_id)

    def reason_draw(self, text: str, num_new: int, codes: Tensor, *, answer: str | None = None) -> Canvas:
        """Two fields: num_new positions for thinking and refined prompt, then the image. With an `answer`, codes stay as they are."""
        head = [self.layout.special("r2i"), *self.dialogue([Message("user", text)], thinking=self.style.draw_thinking)]
        canvas = self._with_image(self._answer(head, self.answer_ids(num_new, answer)), codes)
        return canvas if answer is not None else canvas.masked(self.layout.mask_id)

    def infill(self, parts: Sequence[str | Hole], *, messages: Sequence[Message] = ()) -> Canvas:
        """Text with holes; with `messages`, the text is the answer to them. Raises InputError without a hole.

        Its training row is `pieces`.
        """
        ids = self.dialogue(messages) if messages else self.begin
        positions: list[int] = []
        for part in parts:
            if isinstance(part, Hole):
                positions += range(len(ids), len(ids) + part.num_tokens)
                ids += self._masks(part.num_tokens)
            else:
                ids += self.encode(self.style.spaced_part(part))
        if not positions:
            raise InputError(f"parts={list(parts)!r} has no hole to fill; put Hole(n) or [MASK:n] where text is missing")
        suppress_tokens = tuple(sorted({*self.layout.text_ids.suppress_tokens, *self.layout.end_ids}))
        allowed = IdRange(0, self.layout.image_offset, suppress_tokens)
        return self._canvas([*ids, self.layout.eos_id], Field(torch.tensor(positions), allowed, len(positions)))

    def blank(self, canvas: Canvas) -> Canvas:
        """The unconditional row of text guidance as published: every given token masked, image and headers included."""
        return Canvas(torch.where(canvas.attend, self.layout.mask_id, canvas.tokens), canvas.attend, canvas.fields)

    # Parts.

    def answer_ids(self, num_new: int, answer: str | None) -> list[int]:
        """num_new positions for an answer: masks, or the answer and end tokens. Raises InputError if these do not fit."""
        if answer is None:
            return self._masks(num_new)
        ids = [*self.encode(answer), self.layout.eos_id]
        if len(ids) > num_new:
            raise InputError(f"num_new={num_new} is too little for an answer of {len(ids)} tokens with its end; raise it or drop the row")
        return self._filled(ids, num_new)

    def _masks(self, count: int) -> list[int]:
        if count < 1:
            raise InputError(f"number of new tokens {count} must be at least 1")
        return [self.layout.mask_id] * count

    def _wrap(self, ids: list[int]) -> list[int]:
        """[bos] … [eos], the begin token only if it is not there."""
        begin = [] if ids[:1] == self.begin else self.begin
        return [*begin, *ids, self.layout.eos_id]

    def _filled(self, ids: list[int], length: int, *, keep_end: bool = False) -> list[int]:
        """Exactly `length` ids: filled with what stands behind an end, or cut; keep_end puts an end token last also when cutting."""
        if len(ids) > length:
            return [*ids[: length - 1], self.layout.eos_id] if keep_end else ids[:length]
        fill = self.layout.eos_id if self.layout.fill_id is None else self.layout.fill_id
        return ids + [fill] * (length - len(ids))

    def _image(self, codes: Tensor) -> list[int]:
        """Begin of image, the codes, end of image; behind each row of (h, w) codes a newline, if the vocabulary has one."""
        newline, wanted = self.layout.newline_id, "(N,)" if self.layout.newline_id is None else "(h, w)"
        if (
            codes.dim() != (1 if newline is None else 2)
            or codes.numel() == 0
            or int(codes.min()) < 0
            or int(codes.max()) >= self.layout.codebook_size
        ):
            low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
            raise InputError(
                f"image codes have the shape {tuple(codes.shape)} and values {low}..{high}; expected {wanted} in 0..{self.layout.codebook_size - 1}"
            )
        ids = codes + self.layout.image_offset
        if newline is not None:
            ids = F.pad(ids, (0, 1), value=newline)
        return [self.layout.special("soi"), *ids.flatten().tolist(), self.layout.special("eoi")]

    def _images(self, images: Sequence[Tensor]) -> list[int]:
        """What stands before a dialogue about images."""
        return [self.layout.special("mmu"), *(i for codes in images for i in self._image(codes))] if len(images) else []

    def _image_field(self, start: int, is_open: Tensor) -> Field:
        """The open codes of an image whose first code stands at `start`; is_open has the shape of the codes."""
        num_total = is_open.numel()
        if self.layout.newline_id is not None:
            is_open = F.pad(is_open, (0, 1), value=False)
        return Field(start + is_open.flatten().nonzero()[:, 0], self.layout.image_ids, num_total)

    def _canvas(self, ids: list[int], *fields: Field) -> Canvas:
        return Canvas(torch.tensor(ids), torch.ones(len(ids), dtype=torch.bool), fields)

    def _answer(self, prefix: list[int], answer: list[int], ids: IdRange | None = None) -> Canvas:
        """`prefix` given, `answer` open."""
        positions = torch.arange(len(prefix), len(prefix) + len(answer))
        return self._canvas(prefix + answer, Field(positions, ids or self.layout.text_ids, len(answer)))

    def _after_last_header(self, prefix: list[int], ids: list[int]) -> Canvas:
        """Open behind the last header of `ids`; all of `ids` if there is none."""
        header = self.layout.end_header_id
        cut = len(ids) - ids[::-1].index(header) if header is not None and header in ids else 0
        if cut == len(ids):
            raise InputError(f"a row of {len(ids)} tokens is cut before its answer begins; raise its length or drop it")
        return self._answer(prefix + ids[:cut], ids[cut:])

    def _with_image(self, canvas: Canvas, codes: Tensor) -> Canvas:
        """Append an image whose codes are a second field."""
        ids = canvas.tokens.tolist() + self._image(codes)
        image = self._image_field(len(canvas) + 1, torch.ones(codes.shape, dtype=torch.bool))
        return self._canvas(ids, *canvas.fields, image)


_HOLE = re.compile(r"\[MASK(?::(\d+))?\]")


def parse_holes(template: str) -> list[str | Hole]:
    """ "The [MASK:3] sat" -> ["The ", Hole(3), " sat"]; [MASK] is one token."""
    parts: list[str | Hole] = []
    end = 0
    for match in _HOLE.finditer(template):
        parts += [template[end : match.start()]] if match.start() > end else []
        parts.append(Hole(int(match[1] or 1)))
        end = match.end()
    return parts + ([template[end:]] if end < len(template) else [])


def messages_of(values: Sequence[Message | Mapping[str, str]] | str) -> list[Message]:
    """A question, or turns as Message or {"role", "content"}, as messages. Raises InputError for a turn without these two texts."""
    if isinstance(values, str):
        return [Message("user", values)]
    return [value if isinstance(value, Message) else _message(i, value) for i, value in enumerate(values)]


def _message(i: int, value: Mapping[str, str]) -> Message:
    if not isinstance(value, Mapping) or not all(isinstance(value.get(name), str) for name in ("role", "content")):
        raise InputError(f'message {i} is {value!r}; give {{"role": "user", "content": "a text"}}')
    return Message(value["role"], value["content"])
