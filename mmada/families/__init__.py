"""A file for each family of published models: vocabulary, prompts, image tokenizer, and how it is sampled.

family.py          Family: what the checkpoints of one kind have in common, as a value; Facts: what the files of one say
choice.py          which family a checkpoint is of: by class name and vocabulary, for tensor names are equal
chat_template.py   conversations laid out by the template of a checkpoint's files
chatml.py          the same for models that were made of Qwen, which have a plain form without one

mmada.py                                    text and images; also what this package trains
mmada_parallel_a.py, mmada_parallel_m.py    edits of an image with a text about it, in the same passes
lumina_dimoo.py                             images of any size
llada.py, llada_moe.py, illada.py           text alone, with the blocks of LLaDA or experts
dream.py, sdar.py                           text alone, on the backbones of Qwen2.5 and Qwen3

Source of every number: docs/families.md, which also says what could not be checked without the published weights.
"""

from mmada.families.choice import FAMILIES, choose, named
from mmada.families.family import Ability, EditPrompts, Facts, Family, ParallelPrompts

__all__ = ["FAMILIES", "Ability", "EditPrompts", "Facts", "Family", "ParallelPrompts", "choose", "named"]
