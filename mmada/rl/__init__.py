"""Reinforcement learning of a masked-diffusion model: text, understanding and drawing in one batch, in the training loop of every stage.

    prompts -> rollout.py -> rewards/ -> advantage.py -> mask_samples.py -> batch.py -> step.py, objective.py -> train/loop.py
    Prompt     Rollout       Scores      Advantages      View        PolicyBatch  Evidence, Terms

prompts.py names the prompts, records.py holds what passes between the parts, settings.py the numbers of an objective.
config.py is a run as a value; setup.py makes the parts from it, task.py puts them together.
weight_versions.py keeps the weights that rollouts were made by. measures.py sums what the log shows.
Packing and log-probabilities are those of training (train/rows.py, train/scoring.py).
docs/rl.md says what each objective is, how to write a reward, and how to read the logs.
"""
