"""Features of a request."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.features import BUCKETS, COMPONENTS, FeatureSpace, fit_basis, shipped_basis, terms

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


def test_places_are_where_the_ones_of_a_vector_are():
    for task, complexity in (("qa", "simple"), ("math", "complex"), ("qa", "unheard"), ("cooking", "simple")):
        vector = SPACE.features("hello", task, complexity).vector
        assert tuple(vector[: SPACE.rest_begins].nonzero()[0]) == SPACE.places(task, complexity)


def test_a_long_prompt_is_read_at_both_ends_only():
    found = terms("alpha " * 3_000 + "middle " + "omega " * 3_000)
    assert terms("alpha") | terms("omega") <= found
    assert not terms("middle") & found


def test_case_does_not_matter_and_marks_are_terms_of_their_own():
    assert terms("Größe ÉTÉ Hello") == terms("größe été hello")
    assert terms("f(x)") == terms("f x") | {ord("("), ord(")")}
    assert terms("“quoted”") == terms("“ quoted ”")


@given(st.text(max_size=300))
def test_a_text_met_again_has_the_same_features(text):
    first, again = (SPACE.features(text, "qa", "simple").vector for _ in range(2))
    assert (first == again).all()
    assert (first[-COMPONENTS:] == shipped_basis().projected(text)).all()


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
