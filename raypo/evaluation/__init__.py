"""Makes numbers for people: win rates, diagnostics, and the statistics behind their intervals."""
