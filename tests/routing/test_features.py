"""Features of a request."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.features import BUCKETS, COMPONENTS, FeatureSpace, fit_basis, shipped_basis, term_counts

SPACE = FeatureSpace()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400))
def test_any_text_has_finite_features(text):
    vector = SPACE.features(text, "qa", "simple").vector
    assert vector.shape == (SPACE.size,) and np.isfinite(vector).all()


def test_task_and_cell_each_have_one_place():
    vector = SPACE.features("hello", "coding", "complex").vector
    assert vector[0] == 1 and vector[1] == 1
    assert vector[1 + 8 : 1 + 8 + 24].nonzero()[0].tolist() == [2]


def test_an_unknown_task_leaves_its_places_empty():
    assert not SPACE.features("hello", "cooking", "simple").vector[1:33].any()


def test_a_long_prompt_is_read_at_both_ends_only():
    counts = term_counts("alpha " * 3_000 + "middle " + "omega " * 3_000)
    assert set(term_counts("alpha omega")) <= set(counts) | set(term_counts("alpha omega"))
    assert not set(term_counts("middle")) & set(counts)


def test_prompts_of_a_kind_lie_closer_than_prompts_of_two_kinds():
    code, more_code, story = (
        shipped_basis().components(text)
        for text in (
            "def f(x):\n    return [y for y in x if y]\nassert f([1]) ==",
            "def g(a):\n    for b in a:\n        return b\nassert g([2]) ==",
            "Tom has 12 apples and buys 5 more at the market. How many apples are left?",
        )
    )
    assert np.linalg.norm(code - more_code) < np.linalg.norm(code - story)


def test_a_basis_is_the_same_each_time_it_is_fitted():
    texts = [f"sample {number} of {number % 7} words {number * 31 % 11}" for number in range(80)]
    first, second = fit_basis(texts, components=4), fit_basis(texts, components=4)
    assert (first.directions == second.directions).all() and first.directions.shape == (BUCKETS, 4)
    assert shipped_basis().directions.shape == (BUCKETS, COMPONENTS)
