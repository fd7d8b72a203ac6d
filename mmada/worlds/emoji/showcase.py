"""What visitors may try with the built-in models: an example of each ability, and one of what they cannot do."""

from __future__ import annotations

import numpy as np

from mmada.data.world import Pixels, Showpiece
from mmada.worlds.emoji.objects import STYLES
from mmada.worlds.emoji.scenes import Scene, jittered_item, render

__all__ = ["LIMITS", "showcase"]

LIMITS = (
    "A small world: 120 emoji, nine colors, up to four things in a picture, sums of whole numbers, a little talk. "
    "It says what it cannot draw or do. Word problems in free words often go wrong, and it seldom notices."
)


def showcase() -> tuple[Showpiece, ...]:
    """In the order in which a page shows them."""
    cats = _picture("sky blue", {"top left": "cat", "top right": "red heart", "bottom left": "cat", "bottom right": "dog"})
    hearts, large = (_picture("white", {"top left": "red heart", "top right": "red heart", "bottom left": "dog"}, scale=s) for s in (1, 4))
    return (
        Showpiece(ability="Draw", text="two red hearts above a dog", kind="draw"),
        Showpiece(ability="Plan, then draw", text="a picture with a rainbow and one more octopus than rainbows", kind="draw", think=True),
        Showpiece(
            ability="Redraw a part",
            text="the dog becomes a cat",
            kind="edit",
            picture=hearts,
            large=large,
            prompt="a red heart at the top left, a red heart at the top right and a cat at the bottom left",
            at=(16, 48),
        ),
        Showpiece(ability="Look at a picture", text="how many cats?", kind="chat", picture=cats, think=True),
        Showpiece(ability="Reckon", text="Tom has 8 coins. Tom finds 5 more. How many coins does Tom have now?", kind="chat", think=True),
        Showpiece(ability="Know its things", text="Which one does not belong: dog, violin, cat?", kind="chat", think=True),
        Showpiece(ability="Say what it cannot draw", text="a zeppelin above a dog", kind="draw"),
    )


def _picture(background: str, cells: dict[str, str], *, scale: int = 1) -> Pixels:
    rng = np.random.default_rng(0)
    items = tuple(jittered_item(name, STYLES[0], cell, rng) for cell, name in cells.items())
    return render(Scene("grid", background, items), scale=scale)
