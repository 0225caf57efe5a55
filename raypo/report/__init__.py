"""Makes pictures: one self-contained static HTML page per run or study.

    record    what a page is made from: plain data, no handles and no tensors
    plots     matplotlib figures as inline SVG
    page      the template, escaped throughout: a model's text is data

A page has no script and loads nothing: it can be mailed, archived and opened without a network.
"""
