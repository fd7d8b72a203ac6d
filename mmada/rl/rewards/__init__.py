"""Rewards: pure functions from samples to numbers.

    reward(samples) -> one value each:  a number; None: it does not bear on this sample; NaN: it should, and could not be computed

text.py      form and length of an answer, equality with a reference, mathematical equality
emoji.py     exact correctness in the emoji world: answers, captions, refined prompts, and drawings by a verifier of pictures
artwork.py   such a verifier: it compares a drawing with the world's own artwork
pictures.py  CLIPScore, PickScore, ImageReward and HPS, for those who have the weights
combine.py   a weighted sum whose parts stay visible
"""

from mmada.rl.rewards.combine import Reward, Scores, combine

__all__ = ["Reward", "Scores", "combine"]
