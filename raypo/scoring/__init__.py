"""Adds columns to given responses: rewards (functions, models, servers) and reference log-probs."""
