"""Benchmarks: training, sampling and the loop, with the peer beside them."""
