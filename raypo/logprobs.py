"""From hidden states or logits to token log-probabilities and entropies: masked, chunked, in fp32."""
