"""Tests of the papers' claims: one module per claim, each ending in a table."""
