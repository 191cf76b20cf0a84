"""Every test starts from the same state: one thread, fixed seeds, float32, an empty Pyro parameter store."""

import os
import random
from collections.abc import Iterator

# Must be set before the first figure is made: tests run where there is no display.
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pyro
import pytest
import torch

# With more threads than cores a small step slows down a hundredfold.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Global state as at start-up, whatever the test before has left behind."""
    random.seed(0)
    np.random.seed(0)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float32)
    # Importing zuko switches validation off for the whole process.
    torch.distributions.Distribution.set_default_validate_args(__debug__)
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()


@pytest.fixture
def float64() -> Iterator[torch.dtype]:
    """Double precision as the default dtype of one test."""
    torch.set_default_dtype(torch.float64)
    yield torch.float64
