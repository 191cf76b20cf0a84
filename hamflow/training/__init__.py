"""Training: one loop for every model, and checkpoints."""

from hamflow.training.fit import fit
from hamflow.training.history import History
from hamflow.training.polish import polish
from hamflow.training.rows import fingerprint, split_rows
from hamflow.training.seeding import random_generator, seeded
from hamflow.training.settings import check_settings

__all__ = ["History", "check_settings", "fingerprint", "fit", "polish", "random_generator", "seeded", "split_rows"]
