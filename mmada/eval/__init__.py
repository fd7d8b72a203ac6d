"""Measuring a model: tasks with exact answers, an independent judge of drawings, and reports with intervals."""
