"""Benchmarks: training, sampling and the loop, with the peer beside them.

`sample_case` alone imports ray and vllm: one of its sides is vLLM without anything of ours in the call.
"""
