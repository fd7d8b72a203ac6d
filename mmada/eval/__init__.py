"""Measuring a model: tasks with exact answers, an independent judge of drawings, and reports with intervals;
speed, and the adapter for lm-evaluation-harness (`python -m mmada.eval.harness`, not imported here)."""
