"""Measuring a model: speed, suites of a world, and adapters for the harnesses of others.

exact.py                  the general suite: held-out samples of a world, judged by its own verifier
speed.py                  seconds and tokens of answers and images
metrics.py                shares with intervals; the Fréchet distance
report.py                 result files, and the tables made of them
harness.py                EleutherAI's lm-evaluation-harness (`python -m mmada.eval.harness`, not imported here)
lmms.py, lmms_plugin.py   lmms-eval, for models that see images, and how it finds the package
"""
