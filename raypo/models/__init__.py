"""Whatever holds weights: loading policy, reference and reward model, adapters, sharding, export.

    load      folders and hub names to modules; what is unreadable is refused with the reason
    scorer    a causal model as "log-probs of these response tokens", the head applied in chunks
    linear    linear layers on a CPU through oneDNN
    shard     FSDP2 over a mesh, with fp32 master weights
    export    full tensors under Hugging Face names: one function for checkpoint folders and for live engines

peft is imported here and nowhere else.
"""
