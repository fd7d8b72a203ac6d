"""Training: a stage is a value, its batches are a function of the step, and one loop runs them.

config.py, stages.py           a run and its stage as dataclasses, filled from YAML and key=value
source.py, samples.py          where samples come from, and what the model makes of held-out ones
batch.py, task.py, step.py     samples become rows, rows become a noised batch, a batch becomes a loss
image_task.py, networks.py     the same for an image tokenizer; new and loaded networks
loop.py, optim.py, state.py    the loop, the optimizer, and a state that resumes bit for bit
lora.py, grow.py, code_bits.py parts that may be trained: adapters, a larger vocabulary, bits of codes
"""
