"""What a sequence is: ids, the canvas of given and open positions, and the prompts that lay it out.

    vocab.py    VocabLayout: where text, special tokens and image codes lie in one vocabulary
    canvas.py   Canvas: one row of tokens, what is given in it, what is open, and which ids may go there
    prompts.py  Prompts: conversations, pictures and templates become canvases, in the order of the published model
    query.py    Query: which logits a sampler needs next, and who may attend to whom

Needs torch alone. A canvas goes from here to sampling/ (to be filled) or to train/ (to be masked).
"""

from mmada.canvas.canvas import Canvas, Field, Stack, stack
from mmada.canvas.prompts import (
    DRAW_THINKING_INSTRUCTION,
    THINKING_INSTRUCTION,
    Hole,
    Message,
    Pads,
    Prompts,
    Style,
    Thought,
    Tokenizer,
    join_thinking,
    messages_of,
    parse_holes,
    split_thinking,
)
from mmada.canvas.query import BlockMask, KVCache, Query, can_attend, causal_block_ids
from mmada.canvas.vocab import PUBLISHED, SPECIAL_STRINGS, IdRange, VocabLayout

__all__ = [
    "DRAW_THINKING_INSTRUCTION",
    "PUBLISHED",
    "SPECIAL_STRINGS",
    "THINKING_INSTRUCTION",
    "BlockMask",
    "Canvas",
    "Field",
    "Hole",
    "IdRange",
    "KVCache",
    "Message",
    "Pads",
    "Prompts",
    "Query",
    "Stack",
    "Style",
    "Thought",
    "Tokenizer",
    "VocabLayout",
    "can_attend",
    "causal_block_ids",
    "join_thinking",
    "messages_of",
    "parse_holes",
    "split_thinking",
    "stack",
]
