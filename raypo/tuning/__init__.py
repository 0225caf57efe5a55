"""Hyper-parameter search: a space over config paths, and trials that are overridden configs run through the stages.

    study     what a study is: base config, space, algorithm, scheduler, bounds; every fault before anything starts
    space     parameters as Ray Tune's domains and as Optuna's distributions; a point of the space as a config
    shared    what all trials share: annotated tables, engines, the start's held-out rows
    training  one trial's training, cut into rungs: in its own process, or by Ray Train where it needs several workers
    online    one trial that is a whole online run
    trial     a trial as Ray Tune sees it: one step is one rung
    search    algorithms, scheduler, and Ray Tune itself, restored where the same study stopped
    results   the trials as a table, the winner, the Pareto front, importances; what is written
    telling   the table, sentences and warnings, and the page
    run       the driver

What a trial is worth is the held-out reward of the policy that it would hand over, at a bounded KL to the start; never
its training loss, because losses of different objectives do not compare.

A trial is a class for Ray Tune and not a function around `TorchTrainer.fit` with `TuneReportCallback`: reports of Ray
Train reach Tune after the workers have gone on, in bursts, so that a scheduler's decision comes too late (measured:
ASHA stopped none of four). Here a step is a rung, the next begins only when Tune asks for it, and a trial that is
stopped ends its own workers, so nothing of it is left to be cleaned up.

Population-based training is not offered. It changes the parameters of a policy on its way, so its winner is a history
of configs: no file that `raypo train` or `raypo run` takes could repeat it, and its importances would belong to no
parameter. ASHA stops the slow, Optuna learns from the finished; both end in one config.

Tune's own record of a study is a pickle: continue only studies whose folder nobody else can write to.
"""

from __future__ import annotations
