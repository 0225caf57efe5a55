"""Adds responses: the vLLM engine behind one small class, and the sync of new weights into it.

vLLM is imported here and nowhere else; Ray is not: handles are given by the caller.
"""
