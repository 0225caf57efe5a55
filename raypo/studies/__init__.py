"""Tests of the papers' claims: one module per claim, each ending in a table and a sentence computed from it.

    catalogue   the studies by name: claim, paper, and what they take
    result      what a study ends in: rows with n, seeds, effect, interval and power; figures; the finding
    write       result.json, table.csv, figures and a page
    run         `raypo study NAME`: finds, runs, writes, tells
    overview    `raypo study --markdown FOLDER...`: a row a study, from what was written
    arena       a bandit of many seeds at once, trained through `raypo.objective.set_loss`
    matched     runs of several objectives and seeds, compared where they moved equally far
    correlations  rows of rank correlations: p, power
    annotators  people's judgements from files, how far they agree, and what a perfect index would reach
    display     whether people kept the order in which responses were shown
    people      every index that can be had against people's disagreement
    reference   the indices that a language model gives
    rankings    annotators' rankings drawn from the Mallows and Bradley-Terry models

A study's claim is fixed beforehand, with the smallest effect that would matter; the finding is made from the rows, also
when the claim fails. This room stands above quickstart and bench: studies measure on the quickstart's language, whose
truth is known, and time the real training step as the benchmark does.
"""
