"""One file a family of published models: vocabulary, prompts, image tokenizer, and how it is sampled.

    family.py    Family: what the checkpoints of one kind have in common, as a value; Facts: what the files of one say
    choice.py    which family a checkpoint is of: by class name and vocabulary, for tensor names are equal
    mmada.py, llada.py, ...    the families

Source of every number: docs/families.md, which also says what could not be checked without the published weights.
"""

from mmada.families.choice import FAMILIES, choose, named
from mmada.families.family import Ability, EditPrompts, Facts, Family, ParallelPrompts

__all__ = ["FAMILIES", "Ability", "EditPrompts", "Facts", "Family", "ParallelPrompts", "choose", "named"]
