"""The round state machine over durable stage outputs, inside one Ray Train fit.

    decisions    stop and keep rules, as pure functions of what was measured
    folder       the layout of a run's folder, and what can be read back from it
    pace         how far a run is let go from outside
    source       the coordinator as the train workers see it
    coordinator  one round = evaluate, decide, sample, score, annotate; each step committed before the next
    progress     the terminal's view of a run
    offline      the same without sampling: given sets, annotated once and trained on
    run          the driver: checks, actors, one fit, summary and report
    evaluation   policies beside their start on held-out prompts, without training
    comparison_figures  their figures as a file
    comparison_page  their page, from the folder of figures and tables
    export       a version as a model folder for others
    card         its model card

The driver creates engines, scorers and the coordinator and hands plain handles to the train function, so training
imports neither sampling nor this room. The coordinator holds no state that storage does not have.
"""
