"""The models that the service knows, and what to say about one that it does not. Pure data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from aivvm.errors import UnsupportedModel, shown


class Model(NamedTuple):
    """A model: `max_length` is in characters of all messages together, `token_limit` in tokens.

    The limits are information for the caller: nothing here enforces them. Those of GPT-3.5 and GPT-3.5-0613 were
    seen in clients of the service; the others come from servers of the same kind.
    """

    id: str
    name: str
    max_length: int
    token_limit: int


DEFAULT_MODEL = "gpt-3.5-turbo"

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        model.id: model
        for model in (
            Model("gpt-3.5-turbo", "GPT-3.5", 12_000, 4_096),
            Model("gpt-3.5-turbo-0613", "GPT-3.5-0613", 12_000, 4_096),
            Model("gpt-3.5-turbo-16k", "GPT-3.5-16K", 48_000, 16_384),
            Model("gpt-3.5-turbo-16k-0613", "GPT-3.5-16K-0613", 48_000, 16_384),
            Model("gpt-4", "GPT-4", 24_000, 8_192),
            Model("gpt-4-0613", "GPT-4-0613", 24_000, 8_192),
            Model("gpt-4-32k", "GPT-4-32K", 96_000, 32_768),
            Model("gpt-4-32k-0613", "GPT-4-32K-0613", 96_000, 32_768),
        )
    }
)
"""Every known model by its id; it cannot be changed."""


def find_model(id: str | None = None) -> Model:
    """The model called `id`; `gpt-3.5-turbo` where `id` is empty or None.

    Raises `UnsupportedModel`, which names the nearest known ids, for everything else.
    """
    try:
        return MODELS[id or DEFAULT_MODEL]
    except (KeyError, TypeError):
        raise _unsupported(id) from None


def _unsupported(id: object) -> UnsupportedModel:
    if not isinstance(id, str):
        return UnsupportedModel(f"model must be an id such as 'gpt-4', but got {shown(id)}")
    from difflib import get_close_matches

    near = get_close_matches(id.lower(), MODELS, n=3)
    if near:
        return UnsupportedModel(f"unknown model {shown(id)}: did you mean {' or '.join(map(repr, near))}?")
    return UnsupportedModel(f"unknown model {shown(id)}: the known ones are {', '.join(MODELS)}")
