"""A Hugging Face sequence classifier as a reward source: its first logit is the reward."""

from __future__ import annotations

from typing import Any

import jinja2
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from raypo.config import ModelReward
from raypo.data.sources import MESSAGES_KEY
from raypo.errors import ModelError, RewardError
from raypo.models.load import DTYPES, LOAD_FAULTS, check_folder, load_tokenizer
from raypo.scoring.function import Values


class RewardModel:
    """Scores each response with its prompt.

    With a chat template of its own the model sees the conversation, the response as the assistant's turn; without one,
    the prompt's text and the response's right behind it.

    Args:
        config: folder or hub name, type, token budget, longest conversation.

    Raises:
        ModelError: it cannot be read, or has no trained classification head.
    """

    def __init__(self, config: ModelReward) -> None:
        self._config = config
        self._device = torch.device("cuda" if config.gpus > 0 else "cpu")
        self._model: Any = load_classifier(config)
        self._tokenizer = load_tokenizer(config.path, config.revision)
        self._model.to(device=self._device)
        self._own_pad: int | None = self._text_config.pad_token_id
        context = getattr(self._text_config, "max_position_embeddings", None) or config.max_tokens
        self._longest = min(config.max_tokens, self._tokenizer.model_max_length, context)

    @property
    def _text_config(self) -> Any:
        return self._model.config.get_text_config()

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        """One value per response, whatever else is in the batch; None for a conversation longer than the limit.

        Raises:
            RewardError: the model's chat template refuses a conversation.
        """
        encoded = [self._encode(*row) for row in zip(prompts, responses, metadata, strict=True)]
        fitting = [i for i, ids in enumerate(encoded) if 0 < len(ids) <= self._longest]
        values: Values = [None] * len(encoded)
        for group in token_groups({i: len(encoded[i]) for i in fitting}, self._config.batch_tokens):
            for index, value in zip(group, self._score([encoded[i] for i in group]).tolist(), strict=True):
                values[index] = value
        return values

    def _encode(self, prompt: str, response: str, metadata: dict[str, Any]) -> list[int]:
        if self._tokenizer.chat_template is None:
            plain: list[int] = self._tokenizer(prompt + response)["input_ids"]
            return plain
        messages = metadata.get(MESSAGES_KEY) or [{"role": "user", "content": prompt}]
        try:
            text = self._tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": response}], tokenize=False
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RewardError(
                f"reward {self._config.name!r}: the chat template of {self._config.path} refuses a conversation of "
                f"{', '.join(m['role'] for m in messages)}, assistant: {error}",
                "roles in an order that the template takes",
                "mend the prompts, or take another reward model",
            ) from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.no_grad()
    def _score(self, rows: list[list[int]]) -> Tensor:
        """First logits of a right-padded batch, [rows] float64."""
        width = max(map(len, rows))
        pad = self._pad_token_id(rows)
        input_ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        logits = self._model(input_ids=input_ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return logits[:, 0].double().cpu()

    def _pad_token_id(self, rows: list[list[int]]) -> int:
        """The model's own pad id, or one that no row ends with.

        A decoder scores at its last token that is not the pad id. One that has no pad id scores a single row at its
        last token, and with such an id every row of a batch.
        """
        if self._own_pad is not None:
            return self._own_pad
        last = {ids[-1] for ids in rows}
        self._text_config.pad_token_id = next(i for i in range(self._text_config.vocab_size) if i not in last)
        return int(self._text_config.pad_token_id)


def load_classifier(config: ModelReward) -> PreTrainedModel:
    """A sequence classifier on the CPU, in evaluation mode.

    Raises:
        ModelError: it cannot be read, or its head is not among its weights: transformers would make a random one.
    """
    check_folder(config.path, f"path of the reward {config.name!r}")
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            config.path,
            revision=config.revision,
            dtype=DTYPES[config.dtype],
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except LOAD_FAULTS as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"reward {config.name!r}: {config.path} cannot be loaded: {first}", "a Hugging Face sequence classifier"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"reward {config.name!r}: {config.path} lacks {', '.join(missing[:4])}",
            "all weights of a sequence classifier; the rest would be random",
            "take a trained reward model, not a language model",
        )
    return model.eval()


def token_groups(lengths: dict[int, int], budget: int) -> list[list[int]]:
    """Group rows of like length so that no group has more padded tokens than the budget.

    Args:
        lengths: row to tokens.
        budget: rows x longest row per group; a row longer than it is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(lengths, key=lambda i: (-lengths[i], i)):
        # the first of a group is its longest: the order falls
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
