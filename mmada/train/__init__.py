"""Training: a stage is a value, its batches are a function of the step, and one loop runs them.

config.py, values.py                    a run as dataclasses, which YAML and key=value fill
stages.py, recipes.py                   a stage as a value; stages by name
setup.py, networks.py, grow.py          from a configuration to a task; networks loaded or new; a larger vocabulary
source.py, file_samples.py, world.py    where samples come from: files, or a world
records.py, replay.py, prefetch.py      records become rows; records of what should stay; work ahead of time
own_words.py                            the records' new words, which the trained model knows
batch.py, rows.py                       rows are noised, and laid end to end
scoring.py, step.py                     log-probabilities of masked tokens; a batch becomes a loss
task.py, image_task.py, protocols.py    the transformer's task, the image tokenizer's; what the loop asks of either
loop.py, optim.py, interrupt.py         the loop, the optimizer, a polite stop
plan.py, sharding.py                    several processes: who holds what; FSDP2
state.py, saver.py, export.py           a state that resumes bit for bit; when it is written; the model of a run
log.py, samples.py                      numbers of a run; what the model makes of held-out samples
lora.py, code_bits.py                   parts that may be trained: adapters, bits of codes
"""
