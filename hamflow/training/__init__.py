"""Training: one loop for every model, and checkpoints."""

from hamflow.training.fit import History, check_settings, fit, split_rows
from hamflow.training.seeding import random_generator, seeded

__all__ = ["History", "check_settings", "fit", "random_generator", "seeded", "split_rows"]
