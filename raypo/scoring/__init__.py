"""Adds columns to given responses: rewards (functions, models, servers) and reference log-probs.

    rewards        several sources become one training reward; what cannot be scored is marked, never removed
    function       a Python function by dotted path
    reward_model   a Hugging Face sequence classifier
    http           a reward server
    judge          a language model that compares two responses, behind an OpenAI-compatible server
    reference      log-probs, entropies and exact KL of causal models over given responses

A source is called as `source(prompts, responses, metadata)` and gives one value per response: a number, or None where
it has none. Its value never depends on what else is in the batch.
"""
