"""Whatever holds a tokenizer: prompt sources, chat templates, and the packing of sets into batches."""
