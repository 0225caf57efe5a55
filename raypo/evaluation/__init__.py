"""Makes numbers for people: each with its interval, from tables alone.

significance  tests of a difference, their power, several tests together
intervals     a figure with its interval; few units
statistics    intervals over prompts, by resampling
seeds         several seeds together
methods       two methods over their seeds
winrate       win rates by reward and by a judge, position bias
length        win rates at equal length
responses     variety, the best of n, ties
likelihood    where probability went: displacement and saturated margins
verdicts      a judge's verdicts, and how each reward orders pairs beside it
inputs        what can be said of rewards before anything is trained on them
frontier      reward against KL
diagnostics   one weight version against the start, with warnings in plain words
comparison    several policies together
"""
