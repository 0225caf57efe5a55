"""One function per verb, `table -> table`: wires the rooms to Ray Data and Ray Train.

    tables      durable stage outputs: a folder is what its manifest lists, and the manifest is written last
    cluster     Ray itself: start, resources asked against free, the long-lived actors and where they are placed
    verbs       sample, score, annotate: one committed table per (round, stage)
    annotation  which sets train, scales, dispersion and psi: what annotated tables say beyond the reference's numbers
    heldout     the same verbs on held-out prompts, ending in an evaluation

Replicas, GPUs, timeouts and paths are mentioned here and in no room below. A folder and not one module, because
storage, placement and the verbs change for different reasons.
"""
