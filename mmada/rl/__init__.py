"""Reinforcement learning of a masked-diffusion model: text, understanding and drawing in one batch, in the training loop of every stage.

    prompts -> rollout.py -> rewards/ -> advantage.py -> views.py -> batch.py -> step.py, objective.py -> train/loop.py
    Prompt     Rollout       Scores      Advantages      View        PolicyBatch  Evidence, Terms

records.py holds what passes between the parts, settings.py the numbers of an objective. task.py puts the parts together, setup.py makes them
from a configuration. Packing and log-probabilities are those of training (train/rows.py, train/scoring.py).
docs/rl.md says what each objective is, how to write a reward, and how to read the logs.
"""
