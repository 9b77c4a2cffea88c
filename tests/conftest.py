"""Settings of the whole suite."""

import torch
from hypothesis import settings

# Two xdist workers share two cores: a thread pool each would only make them wait.
torch.set_num_threads(1)

# A shared machine may stop for a second in the middle of an example.
settings.register_profile("evenkeel", deadline=None)
settings.load_profile("evenkeel")
