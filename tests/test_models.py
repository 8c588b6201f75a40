"""The table of models, and what is said about ids that are not in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm import MODELS, Model, UnsupportedModel
from aivvm.models import find_model


def test_the_known_models_and_their_limits() -> None:
    assert [tuple(model) for model in MODELS.values()] == [
        ("gpt-3.5-turbo", "GPT-3.5", 12000, 4096),
        ("gpt-3.5-turbo-0613", "GPT-3.5-0613", 12000, 4096),
        ("gpt-3.5-turbo-16k", "GPT-3.5-16K", 48000, 16384),
        ("gpt-3.5-turbo-16k-0613", "GPT-3.5-16K-0613", 48000, 16384),
        ("gpt-4", "GPT-4", 24000, 8192),
        ("gpt-4-0613", "GPT-4-0613", 24000, 8192),
        ("gpt-4-32k", "GPT-4-32K", 96000, 32768),
        ("gpt-4-32k-0613", "GPT-4-32K-0613", 96000, 32768),
    ]


def test_every_model_is_found_under_its_id() -> None:
    for id, model in MODELS.items():
        assert find_model(id) is model
        assert model.id == id
        assert isinstance(model, Model)


def test_the_table_cannot_be_changed() -> None:
    table: Any = MODELS
    with pytest.raises(TypeError):
        table["gpt-5"] = MODELS["gpt-4"]


@pytest.mark.parametrize("nothing", [None, "", 0, False, [], {}])
def test_no_model_means_gpt_3_5_turbo(nothing: Any) -> None:
    assert find_model(nothing).id == "gpt-3.5-turbo"


@given(st.text(min_size=1).filter(lambda id: id not in MODELS))
def test_an_unknown_id_is_a_value_error_that_names_known_ones(id: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        find_model(id)
    assert isinstance(caught.value, ValueError)
    assert any(repr(known) in str(caught.value) or f"{known}, " in str(caught.value) for known in MODELS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("id", "near"),
    [("gpt4", "gpt-4"), ("GPT-4", "gpt-4"), ("gpt-3.5", "gpt-3.5-turbo"), ("gpt-4-32", "gpt-4-32k")],
)
def test_the_nearest_id_is_named(id: str, near: str) -> None:
    with pytest.raises(UnsupportedModel, match=repr(near)):
        find_model(id)


@pytest.mark.parametrize("other", [4, 3.5, True, ["gpt-4"], {"id": "gpt-4"}, b"gpt-4", object()])
def test_what_is_no_id_is_refused_alike(other: Any) -> None:
    with pytest.raises(UnsupportedModel, match="model must be an id"):
        find_model(other)
