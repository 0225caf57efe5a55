"""Makes pictures: one self-contained static HTML page per run, study or comparison.

    record      what a page is made from: plain data, no handles and no tensors
    plots       matplotlib figures as inline SVG
    page        the template, escaped throughout: a model's text is data
    study       the page of a study, with the figures of `trials`
    comparison  the page of policies compared

A page has no script and loads nothing: it can be mailed, archived and opened without a network.
"""
