"""The reward `correct` of a world that verifies: 1 if its verifier calls the answer or the drawing right."""

from __future__ import annotations

from collections.abc import Sequence

from mmada.data.world import World
from mmada.rl.records import Completion
from mmada.rl.rewards.combine import Reward

__all__ = ["correct"]


def correct(world: World) -> Reward:
    """It bears on prompts of the world. A drawing that was thought about is judged by what was drawn."""

    def value(sample: Completion) -> float | None:
        if sample.prompt.origin is None:
            return None
        answer = sample.answer if sample.image is None else world.pixels_of(sample.image)
        return float(world.verify(sample.prompt.origin, answer))

    def reward(samples: Sequence[Completion]) -> list[float | None]:
        return [value(sample) for sample in samples]

    return reward
