"""Preflight: what a run asks for against what there is, before any actor starts."""
