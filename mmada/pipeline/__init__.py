"""What a user holds: `MMaDA`, the progress of a call, and pictures of how its result appeared.

mmada.py      MMaDA: load, chat, ask, draw, fill, run, save
followers.py  processes that hold a split model together with this one
trace.py      Recorder: an animation or a strip of the denoising
"""

from mmada.pipeline.mmada import DESCRIBE, MMaDA, Progress

__all__ = ["DESCRIBE", "MMaDA", "Progress"]
