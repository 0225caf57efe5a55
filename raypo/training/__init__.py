"""Holds optimizer state: one step (no Ray), the Ray Train loop around it, and its checkpoints."""
