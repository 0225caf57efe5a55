"""A Hugging Face sequence-classification model as a reward: batch 1 == batch n, in any order."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from raypo.config import ModelReward
from raypo.errors import ModelError
from raypo.models.load import DTYPES, LOAD_FAULTS, check_folder, load_tokenizer


class RewardModel:
    """Scores (prompt, response) by the model's first logit.

    The text is the model's own chat template over {user: prompt, assistant: response} where it has one, else prompt and
    response as they stand. Rows are padded on the right and masked; texts of like length go together.

    Args:
        source: folder, type and batch size.

    Raises:
        ModelError: the folder is not a sequence-classification model.
    """

    def __init__(self, source: ModelReward) -> None:
        check_folder(source.path)
        self._source = source
        self._tokenizer = load_tokenizer(source.path, source.revision)
        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(
                source.path,
                revision=source.revision,
                dtype=DTYPES[source.dtype],
                trust_remote_code=False,
                use_safetensors=True,
            )
        except LOAD_FAULTS as error:
            raise ModelError(
                f"{source.path} cannot be loaded: {str(error).splitlines()[0]}", "a sequence-classification model"
            ) from error
        self._device = torch.device("cuda" if source.gpus > 0 else "cpu")
        self._model.to(self._device).eval()
        # the classifier reads the last token that is not padding, which it finds by this id
        self._model.config.pad_token_id = self._tokenizer.pad_token_id

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float | None]:
        """One number per response; None where the text is longer than the model's limit."""
        encoded = [self._encode(*pair) for pair in zip(prompts, responses, strict=True)]
        values: list[float | None] = [None] * len(encoded)
        fitting = sorted((i for i, ids in enumerate(encoded) if len(ids) <= self._source.max_tokens), key=lambda i: len(encoded[i]))
        start = 0
        while start < len(fitting):
            stop = start + 1
            while stop < len(fitting) and (stop + 1 - start) * len(encoded[fitting[stop]]) <= self._source.batch_tokens:
                stop += 1
            for index, value in zip(fitting[start:stop], self._forward([encoded[i] for i in fitting[start:stop]]), strict=True):
                values[index] = value
            start = stop
        return values

    def _encode(self, prompt: str, response: str) -> list[int]:
        if self._tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            text = str(self._tokenizer.apply_chat_template(turns, tokenize=False))
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer(prompt + response)["input_ids"])

    @torch.no_grad()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        logits = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return [float(value) for value in logits[:, 0].float()]
