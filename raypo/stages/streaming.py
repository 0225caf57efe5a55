"""Rows through long-lived actors: Ray Data streams chunks of a table to tasks that wait for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pyarrow as pa
import ray.data

from raypo.stages.actors import unwrap


def stream(
    chunks: Sequence[pa.Table],
    call: Callable[[pa.Table], pa.Table],
    *,
    concurrency: int,
    no_progress_timeout_s: float,
    progress: Callable[[pa.Table], None],
) -> pa.Table:
    """Stream chunks of rows through a task by Ray Data, one row out per row in.

    Args:
        chunks: tables; each is one call.
        call: runs in a Ray task; usually it only waits for a long-lived actor.
        concurrency: calls under way at once.
        no_progress_timeout_s: fail when nothing finished for so long, seconds.
        progress: told each finished chunk.

    Raises:
        RaypoError: as raised in the task.
    """
    for handler in logging.getLogger("ray.data").handlers:
        # its session files keep what it says of each dataset; the terminal has our own progress
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = no_progress_timeout_s
    # otherwise Ray raises an error of its own from ours, and what an error was raised from is lost between processes
    context.raise_original_map_exception = True
    dataset = ray.data.from_arrow(list(chunks)).map_batches(
        call,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0.1,
        compute=ray.data.TaskPoolStrategy(size=min(concurrency, len(chunks))),  # Ray warns where there are fewer
    )
    done: list[pa.Table] = []
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            done.append(batch)
            progress(batch)
    except Exception as error:  # Ray wraps whatever the task raised; ours is inside
        cause = unwrap(error)
        if cause is error:
            raise
        raise cause from error
    return pa.concat_tables(done)
