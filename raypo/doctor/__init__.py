"""Preflight: what a run would be, and what would stop it, before any actor of it starts.

    plan       values with their sources, and the work
    memory     bytes per process and per device
    shown      both as tables
    findings   a check's outcome: ok, warn or fail, with what was got and expected
    checks     what the config names: policy, rewards, output; `raypo run` always does these, and the next
    surroundings  what is installed and there: packages, vLLM, trackers, Ray, memory
    data       the first rows as they would be read, rendered and trained
    trust      what speaks against the rewards, by themselves and beside known preferences
    rehearsal  what takes Ray: resources, nodes, and sixteen responses, sampled and scored
    examination  all of it, as a table

What is imported here imports neither torch nor ray, so that `raypo plan` is quick.
"""

from raypo.doctor.memory import Memory, ModelShape, memory, model_shape, size
from raypo.doctor.plan import Value, leaves, resolve, work

__all__ = ["Memory", "ModelShape", "Value", "leaves", "memory", "model_shape", "resolve", "size", "work"]
