"""Reinforcement learning of a masked-diffusion model: text, understanding and drawing in one batch, in the training loop of every stage.

    prompts -> rollout.py -> rewards/ -> advantage.py -> views.py -> batch.py -> step.py, objective.py -> train/loop.py
    Prompt     Rollout       Scores      Advantages      View        PolicyBatch  Evidence, Terms

records.py holds what passes between the parts, task.py puts them together, setup.py makes them from a configuration.
docs/rl.md says what each objective is, how to write a reward, and how to read the logs.
"""
