"""Makes pictures: one self-contained static HTML page per run or study."""
