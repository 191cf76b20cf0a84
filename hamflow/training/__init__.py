"""Training: one loop for every model, and checkpoints."""

from hamflow.training.fit import History, check_settings, fit, split_rows

__all__ = ["History", "check_settings", "fit", "split_rows"]
