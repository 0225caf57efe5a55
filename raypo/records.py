"""What flows: the Arrow schemas of the tables, column by column. One row is one prompt with its K responses.

    prompts --sample--> SAMPLED --score--> SCORED --annotate--> ANNOTATED --train--> policy

Each schema extends the one before it, so that any stage's table can be read alone. Lists inside a row run
over the K responses in the order in which they were drawn; nothing is ever reordered or removed: a response that must
not train has `usable` false and says why in `unusable_reason`.
"""

from __future__ import annotations

import pyarrow as pa

from raypo.errors import DataError

_PER_RESPONSE_FLOAT = pa.list_(pa.float64())

PROMPTS = pa.schema(
    [
        # content hash of the source prompt, 16 hex digits: the key of every table. Where a prompt has several offline
        # sets, the hash of prompt and responses
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),  # as rendered by the chat template, or the plain text
        ("prompt_token_ids", pa.list_(pa.int32())),  # rendered once; never re-encoded after this
        ("split", pa.string()),  # "train" or "heldout", by content hash
        ("metadata", pa.string()),  # JSON object: the source row's other columns, for reward functions
    ]
)

SAMPLED = pa.schema(
    [
        *[field for field in PROMPTS if field.name != "split"],
        ("round", pa.int32()),
        ("weight_version", pa.int32()),  # of the engine that drew the responses; -1 for responses that were given
        ("seed", pa.int64()),  # of the request; response k was drawn with seed + k
        ("sampling", pa.string()),  # JSON object: temperature, top_p, max_response_tokens, stop_token_ids
        ("responses", pa.list_(pa.string())),  # text, for people and rewards only; never encoded again
        ("response_token_ids", pa.list_(pa.list_(pa.int32()))),  # as drawn, the stop token once, nothing after it
        ("finish_reasons", pa.list_(pa.string())),  # "stop" or "length"
        ("engine_logps", _PER_RESPONSE_FLOAT),  # sum of log p of the drawn tokens, nats, by the engine; null if given
    ]
)

SCORED = pa.schema(
    [
        *SAMPLED,
        ("reward_values", pa.list_(pa.struct([("name", pa.string()), ("values", _PER_RESPONSE_FLOAT)]))),
        ("rewards", _PER_RESPONSE_FLOAT),  # weighted sum over the sources that train; NaN where it is not known
        ("usable", pa.list_(pa.bool_())),
        ("unusable_reason", pa.list_(pa.string())),  # "", "reward_failed", "truncated", "duplicate", "empty"
    ]
)

ANNOTATED = pa.schema(
    [
        *SCORED,
        ("reference_logps", _PER_RESPONSE_FLOAT),  # sum over the response's tokens, nats
        # log p of each response token, nats; null unless the objective needs them (LD-DPO, TIS-DPO)
        ("reference_token_logps", pa.list_(pa.list_(pa.float32()))),
        # log p of each response token by annotation.importance.positive less that by negative, nats; null as above
        ("contrastive_token_gaps", pa.list_(pa.list_(pa.float32()))),
        ("response_lengths", pa.list_(pa.int32())),  # tokens, the stop token included
        ("reference_entropies", _PER_RESPONSE_FLOAT),  # sum over the response's tokens, nats
        ("trainable", pa.bool_()),  # two usable responses whose rewards differ by more than tie_eps
        ("untrainable_reason", pa.string()),  # "", "ties", "too_few_usable"
        ("scaled_rewards", _PER_RESPONSE_FLOAT),  # rewards / reward scale of the run
        ("dispersion", pa.float64()),  # index d in [1e-3, 0.999]
        # -c ln d, c frozen for the run and 1 where d was given; 1 where no dispersion acts
        ("psi", pa.float64()),
    ]
)

MEASURED = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("kl", _PER_RESPONSE_FLOAT),  # exact KL from a policy to the start, summed over the response's tokens, nats
        ("policy_logps", _PER_RESPONSE_FLOAT),  # sum over the response's tokens, nats
        ("policy_entropies", _PER_RESPONSE_FLOAT),  # sum over the response's tokens, nats
        ("reference_logps", _PER_RESPONSE_FLOAT),  # of the start, sum over the response's tokens, nats
    ]
)

SCHEMAS = {"prompts": PROMPTS, "sampled": SAMPLED, "scored": SCORED, "annotated": ANNOTATED, "measured": MEASURED}


def conform(table: pa.Table, schema: pa.Schema, *, what: str) -> pa.Table:
    """Select and cast a table's columns to a declared schema.

    Raises:
        DataError: naming the column that is missing or cannot be cast.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{what} has no column {', '.join(map(repr, missing))}; it has {', '.join(table.column_names)}",
            f"the columns {', '.join(schema.names)}",
            "write the table with the stage before this one, or rename the columns",
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{what} does not fit its schema: {error}", "the types of raypo.records") from error
