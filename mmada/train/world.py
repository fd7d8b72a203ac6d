"""A world's samples as the engine takes them: with image codes for training, as requests for sampling.

WorldSamples    indices -> samples, pictures encoded
WorldPictures   index -> pixels, for an image tokenizer
request_of      a sample -> the request that a user would make
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from PIL import Image
from torch import Tensor

from mmada.canvas import messages_of
from mmada.data.seeds import generator
from mmada.data.world import Pixels, SampleKey, Split, World, WorldSample
from mmada.generation.requests import ChatRequest, DrawRequest
from mmada.train.source import TrainingExample

__all__ = ["WorldPictures", "WorldSamples", "request_of"]


class WorldSamples:
    """Samples of one task, made when they are asked for.

    encode    n pictures -> (n, N) int64 codes
    size      number of different samples; None: no two are alike
    num_kept  pictures whose codes are remembered; a `size` no larger is encoded once
    """

    def __init__(
        self,
        world: World,
        task: str,
        encode: Callable[[Sequence[Pixels]], Tensor],
        *,
        seed: int,
        split: Split = "train",
        size: int | None = None,
        num_kept: int = 20_000,
    ) -> None:
        self.world, self.task, self.encode, self.seed, self.split = world, task, encode, seed, split
        self.size, self.num_kept = size, num_kept
        self._codes: dict[bytes, Tensor] = {}

    def samples(self, indices: Sequence[int]) -> list[WorldSample]:
        """As the world makes them."""
        own = [index if self.size is None else index % self.size for index in indices]
        return [
            self.world.sample(SampleKey(task=self.task, split=self.split, seed=self.seed, index=index, stream=self.world.name))
            for index in own
        ]

    def take(self, indices: Sequence[int]) -> list[TrainingExample]:
        found = self.samples(indices)
        shown = {_digest(pixels): pixels for sample in found for pixels in _pictures(sample)}
        new = [digest for digest in shown if digest not in self._codes]
        if new:  # all at once: three times as fast as one by one
            self._codes.update(zip(new, self.encode([shown[digest] for digest in new]), strict=True))
        taken = [self._sample(sample) for sample in found]
        for digest in list(self._codes)[: max(0, len(self._codes) - self.num_kept)]:
            del self._codes[digest]
        return taken

    def _sample(self, sample: WorldSample) -> TrainingExample:
        return TrainingExample(
            messages=tuple(messages_of(sample.messages)),
            seen=tuple(self._codes[_digest(pixels)] for pixels in sample.seen),
            think=sample.think,
            answer=sample.answer,
            drawn=None if sample.drawn is None else self._codes[_digest(sample.drawn)],
            pieces=sample.pieces,
        )


class WorldPictures:
    """Pictures of a world, all different. index >= 0 -> (H, W, 3) uint8, without end.

    scale  above 1: the same pictures, so many times as large
    """

    def __init__(self, world: World, *, seed: int, split: Split = "train", scale: int = 1) -> None:
        self.world, self.seed, self.split, self.scale = world, seed, split, scale

    def __getitem__(self, index: int) -> Pixels:
        rng = generator("picture", self.split, self.seed, index)
        return self.world.picture(rng, self.split) if self.scale == 1 else self.world.large_picture(rng, self.split, scale=self.scale)


def request_of(sample: WorldSample, *, think: bool, seed: int = 0, upscale: int = 1) -> ChatRequest | DrawRequest:
    """What a user would ask.

    think    a drawing whose sample has no answer is never thought about, one that has always is
    upscale  how many times as large as the world's pictures the model draws, along a side
    """
    if sample.drawn is None:
        seen = tuple(Image.fromarray(pixels) for pixels in sample.seen)
        return ChatRequest(messages_of(sample.messages), images=seen, think=think, seed=seed)
    height, width = (upscale * side for side in sample.drawn.shape[:2])
    return DrawRequest(messages_of(sample.messages)[-1].content, size=(height, width), think=bool(sample.answer), seed=seed)


def _pictures(sample: WorldSample) -> tuple[Pixels, ...]:
    return sample.seen if sample.drawn is None else (*sample.seen, sample.drawn)


def _digest(pixels: Pixels) -> bytes:
    return blake2b(pixels.tobytes(), digest_size=16).digest()
