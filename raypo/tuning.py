"""Hyper-parameter search: a space over config paths, and trials that are overridden configs run through the stages."""
