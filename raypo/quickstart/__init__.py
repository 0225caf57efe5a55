"""The demonstration: a synthetic language, a tiny model of it, and a run that makes the model better."""
