"""Rewards: pure functions from samples to numbers.

    reward(samples) -> one value each:  a number; None: it does not bear on this sample; NaN: it should, and could not be computed

text.py      form and length of an answer, equality with a reference, mathematical equality
world.py     what a world's verifier says of answers and drawings; a world brings further rewards of its own
pictures.py  CLIPScore, PickScore, ImageReward and HPS, for those who have the weights
combine.py   a weighted sum whose parts stay visible
"""

from mmada.rl.rewards.combine import Reward, Scores, combine

__all__ = ["Reward", "Scores", "combine"]
