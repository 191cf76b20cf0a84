"""Training: one loop for every model, and checkpoints."""

from hamflow.training.fit import History, fit, split_rows

__all__ = ["History", "fit", "split_rows"]
