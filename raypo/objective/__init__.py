"""What is optimized: prior, contrast and link composed by one kernel; presets are rows of one table.

Pure functions of tensors belong here. Nothing here knows a config, a device, a tokenizer or Ray.
"""
