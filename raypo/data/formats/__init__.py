"""Layouts in which people keep offline sets: `table` lists and detects them, the other modules read them."""
