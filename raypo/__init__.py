"""raypo: align language models on a Ray cluster by preference optimization over sets of responses."""

__version__ = "0.1.0"
