"""Worlds: sources of samples with exact answers, which the engine trains on and is measured by."""
