# ruff: noqa: SIM905 - word lists read better as one string
"""The prompts that the text basis is fitted on: our own templates, and sources and manual pages of Python itself.

Nothing in here comes from a benchmark. Templates are filled from lists of plain words; the code and manual pages are
those of the standard library (PSF licence) of the Python that runs ``manage.py build_router_features``.
"""

import ast
import inspect
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics as manual

_SUBJECTS = """the French Revolution|photosynthesis|interest rates|black holes|the immune system|supply chains|jazz
|contract law|plate tectonics|vaccines|the water cycle|neural networks|medieval trade|inflation|mitochondria|glaciers
|renewable energy|the stock market|machine translation|Roman roads|urban planning|coral reefs|enzymes|quantum spin
|the printing press|antibiotics|tides|voting systems|bread making|chess openings|marathon training|home insurance
|electric cars|database indexes|public transport|sleep|coffee growing|remote work|volcanoes|compound interest|opera
|genetics|thermodynamics|ethics of care|civil procedure|marketing funnels|microeconomics|world religions|anatomy
|astronomy|logical fallacies|constitutional law|clinical nutrition|computer security|sociology|prehistory""".replace(
    "\n", ""
).split("|")
_PEOPLE = "Maria Tom Aisha Liam Chen Olga Pedro Nadia Ravi Emma Kofi Yuki Sven Leila Marco Ingrid Sam Priya".split()
_THINGS = (
    "apples books pencils marbles tickets cookies stamps bottles chairs boxes eggs flowers cards toys lamps shirts "
    "coins miles pages hours bags trees cups dollars pounds minutes students workers cars rows tables pizzas gallons"
).split()
_PLACES = "market school farm shop office garden library factory bakery museum station hospital kitchen park".split()
_GOODS = "laptop jacket phone camera kettle bicycle tent watch printer sofa blender guitar".split()
_LANGUAGES = "Python JavaScript Go Rust Java SQL TypeScript C Bash Ruby".split()
_CODE_JOBS = (
    "reverses a linked list|parses a CSV file with quoted fields|finds the longest common prefix|retries with back-off|"
    "merges overlapping intervals|computes a moving average|validates an e-mail address|counts words in a file|"
    "implements an LRU cache|rotates a matrix|finds cycles in a directed graph|streams a large file|hashes passwords|"
    "sorts a dictionary by value|groups anagrams|flattens nested lists|removes duplicates|converts Roman numerals"
).split("|")
_FORMS = "poem|short story|haiku|product description|speech|song|dialogue|letter|blog post|limerick|fairy tale".split(
    "|"
)
_MOODS = "cheerful|melancholic|formal|ironic|hopeful|dry|playful|dramatic".split("|")
_MATHS = (
    "Find the value of $x$ such that ${a}x^2 - {b}x + {c} = 0$ and $x > 0$.",
    "What is the remainder when ${a}^{{{b}}}$ is divided by ${c}$?",
    "How many positive integers less than ${a}$ are divisible by ${b}$ or by ${c}$?",
    "Let $f(x) = {a}x + {b}$ and $g(x) = x^2 - {c}$. Compute $f(g({a}))$.",
    "A circle of radius ${a}$ is inscribed in a square. What is the area between them? Express it in terms of $\\pi$.",
    "In triangle $ABC$, $AB = {a}$, $BC = {b}$ and $\\angle B = 90^\\circ$. Find $\\sin A$ as a common fraction.",
    "Evaluate the sum $\\sum_{{k=1}}^{{{a}}} \\frac{{1}}{{k(k+1)}}$.",
    "Simplify $\\sqrt{{{a}}} + \\frac{{{b}}}{{\\sqrt{{{c}}}}}$ and rationalize the denominator.",
    "Two fair dice with {a} sides are rolled. What is the probability that the sum is a prime number?",
    "Find all complex numbers $z$ with $|z - {a}| = {b}$ and a real part equal to {c}.",
)
_STORIES = (
    "{p} has {a} {t} and buys {b} more at the {l}. After giving {c} to {q}, how many {t} are left?",
    "A {l} sells {t} for ${a} each. {p} buys {b} of them and pays with a $100 note. How much change does {p} get?",
    "{p} works {a} hours a day for {b} days and earns ${c} an hour. How much does {p} earn in total each week?",
    "{p} reads {a} pages on Monday, twice as many on Tuesday and {b} fewer on Wednesday. How many pages altogether?",
    "There are {a} rows of {b} {t} in the {l}. If {c}% of the {t} are sold, how many remain?",
    "{p} is {a} years older than {q}. In {b} years {p} will be twice as old as {q}. How old is {q} now?",
    "A train travels {a} miles in {b} hours. At the same speed, how far does it go in {c} hours?",
    "{p} saves half of the ${a} earned every month. A {g} costs ${b}00. How many months until {p} can afford it?",
)
_CHOICES = (
    "Which of the following best describes {s}?",
    "Which statement about {s} is NOT correct?",
    "According to most scholars, {s} mainly depends on",
    "A student of {s} observes a change over time. The most likely explanation is",
)
_OPTIONS = "an increase in demand|a loss of energy|the rule of law|a random process|its initial conditions|none".split(
    "|"
)
_LOGS = "ERROR timeout while connecting|WARN retry scheduled|INFO user signed in|ERROR disk is full".split("|")


def prompts(seed: int = 0, each: int = 450) -> list[str]:
    """All prompts, in a fixed order: ``each`` of every kind of template, then code and manual pages."""
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    kinds = (_story, _mathematics, _question, _choice, _coding, _creative, _summary, _extraction, _chat)
    made = [kind(rng) for kind in kinds for _ in range(each)]
    sources = list(_functions())
    made += [_execution(rng, source) for source in rng.sample(sources, min(3 * each, len(sources)))]
    made += [_review(rng, source) for source in rng.sample(sources, min(each, len(sources)))]
    paragraphs = [part for page in manual.topics.values() for part in page.split("\n\n") if len(part) > 200]
    made += [f"Summarize the following text:\n\n{part}" for part in rng.sample(paragraphs, min(each, len(paragraphs)))]
    return made


def _numbers(rng: random.Random) -> dict[str, int]:
    return {"a": rng.randint(2, 99), "b": rng.randint(2, 30), "c": rng.randint(2, 20)}


def _story(rng: random.Random) -> str:
    people = rng.sample(_PEOPLE, 2)
    words = {
        "t": rng.choice(_THINGS),
        "l": rng.choice(_PLACES),
        "g": rng.choice(_GOODS),
        "p": people[0],
        "q": people[1],
    }
    return " ".join(text.format(**words, **_numbers(rng)) for text in rng.sample(_STORIES, rng.choice((1, 1, 2))))


def _mathematics(rng: random.Random) -> str:
    return rng.choice(_MATHS).format(**_numbers(rng))


def _question(rng: random.Random) -> str:
    text = rng.choice(("What is {s}?", "Explain {s} to a beginner.", "Why does {s} matter?", "Compare {s} with {o}."))
    return text.format(s=rng.choice(_SUBJECTS), o=rng.choice(_SUBJECTS))


def _choice(rng: random.Random) -> str:
    options = rng.sample(_OPTIONS, 4)
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True)]
    return "\n".join([rng.choice(_CHOICES).format(s=rng.choice(_SUBJECTS)), *lines, "Answer:"])


def _coding(rng: random.Random) -> str:
    text = rng.choice(
        ("Write a {l} function that {j}.", "Fix my {l} code: it {j} but fails on empty input.", "{l}: {j}")
    )
    return text.format(l=rng.choice(_LANGUAGES), j=rng.choice(_CODE_JOBS))


def _creative(rng: random.Random) -> str:
    return f"Write a {rng.choice(_MOODS)} {rng.choice(_FORMS)} about {rng.choice(_SUBJECTS)} for {rng.choice(_PEOPLE)}."


def _summary(rng: random.Random) -> str:
    told = " ".join(_question(rng) for _ in range(rng.randint(2, 6)))
    return f"Give me the key points of this in {rng.randint(2, 6)} bullet points: {told}"


def _extraction(rng: random.Random) -> str:
    rows = [{"name": rng.choice(_PEOPLE), "item": rng.choice(_GOODS), "amount": rng.randint(1, 900)} for _ in range(3)]
    shown = (
        json.dumps(rows)
        if rng.random() < 0.5
        else "\n".join(f"{rng.choice(_LOGS)} id={rng.random():.6f}" for _ in "abc")
    )
    return (
        f"Extract every {rng.choice(('name', 'amount', 'date', 'error'))} from the following and return JSON:\n{shown}"
    )


def _chat(rng: random.Random) -> str:
    text = rng.choice(
        ("hi {p}!", "thanks, that helps", "can you help me with {s}?", "Plan a weekend around {s}.", "{s}??")
    )
    return text.format(p=rng.choice(_PEOPLE), s=rng.choice(_SUBJECTS))


def _execution(rng: random.Random, source: str) -> str:
    asked = rng.choice(("What does this return", "Work out the output of the function", "Complete the assertion"))
    values = rng.choice(("[1, 2, 3]", "'abc'", "{'a': 1, 'b': 2}", "42", "('x', 0)", "[]", "'hello world'"))
    return f"{asked} for the given input?\n\n```python\n{source}\n```\n\nassert f({values}) == ??"


def _review(rng: random.Random, source: str) -> str:
    return f"{rng.choice(('Explain', 'Refactor', 'Find the bug in', 'Write tests for'))} this code:\n\n{source}"


def _functions() -> Iterator[str]:
    """Short functions of the standard library's modules, by name of file and place in it; nothing is imported."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and 3 <= (node.end_lineno or 0) - node.lineno <= 30:
                yield inspect.cleandoc("\n".join(["", *lines[node.lineno - 1 : node.end_lineno]]))
