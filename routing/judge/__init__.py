"""A model that rates other models' answers, blind: what it is asked, and what its answer means. Pure; asking is done
elsewhere (:mod:`gateway.judging`).

    exchange   what was asked and answered, as text
    rules      scores that need no judge: nothing said, refusals, broken formats, cut off
    refusals   what declines to answer, in many languages
    questions  the rubric, for one answer or a pair
    verdicts   from the judge's words to 0-1
    sampling   who judges, how often, within which money
"""

from routing.judge.exchange import Exchange, Turn
from routing.judge.questions import pair_question, question
from routing.judge.refusals import is_refusal
from routing.judge.rules import RuleScore, is_json, score_by_rule
from routing.judge.sampling import Sampler, choose_judge, variance_of_repeats
from routing.judge.verdicts import UnreadableVerdict, pair_verdict, verdict

__all__ = [
    "Exchange",
    "RuleScore",
    "Sampler",
    "Turn",
    "UnreadableVerdict",
    "choose_judge",
    "is_json",
    "is_refusal",
    "pair_question",
    "pair_verdict",
    "question",
    "score_by_rule",
    "variance_of_repeats",
    "verdict",
]
