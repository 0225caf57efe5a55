"""Whatever holds weights: loading policy, reference and reward model, adapters, sharding, export."""
