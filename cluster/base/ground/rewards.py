"""A reward to begin with: short answers that end in a full stop. Put your own here, or name a reward model."""


def concise(prompts, responses, metadata):
    """One number per response: -1 per 100 words, +1 for an ending."""
    return [-len(text.split()) / 100 + text.rstrip().endswith((".", "!", "?")) for text in responses]
