"""Checkpoint files: saved, loaded and recognised, those of published code too."""
