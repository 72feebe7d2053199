"""Hypothesis without deadlines: a busy machine is no failure; the same examples on every run."""

from hypothesis import settings

settings.register_profile("kernels", deadline=None, derandomize=True)
settings.load_profile("kernels")
