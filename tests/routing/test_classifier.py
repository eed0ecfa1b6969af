import json
import time
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from routing.classifier import COMPLEXITIES, EDGE_CHARS, TASKS, PromptFacts, classify
from routing.labelled import evaluate, read_sample

SAMPLE = Path(__file__).with_name("classified.jsonl")


def task_of(text: str, **known: object) -> str:
    return classify(PromptFacts.of_text(text, **known)).task


def chat(*messages: dict, **fields: object) -> PromptFacts:
    body = json.dumps({"model": "auto", "messages": list(messages), **fields}).encode()
    return PromptFacts.of(openai_chat.parse_request(body, {}))


# --------------------------------------------------------------------------- accuracy


@pytest.fixture(scope="module")
def held_back():
    return evaluate(read_sample(SAMPLE, "held_back"))


def test_the_sample_covers_every_task_at_every_complexity_in_both_halves():
    for half in ("tuned", "held_back"):
        prompts = read_sample(SAMPLE, half)
        cells = {(prompt.task, prompt.complexity) for prompt in prompts}
        assert cells == {(task, complexity) for task in TASKS for complexity in COMPLEXITIES}
        assert len({prompt.language for prompt in prompts}) >= 12
    assert len(read_sample(SAMPLE)) >= 500


def test_no_prompt_is_in_both_halves():
    tuned, held = ({prompt.text for prompt in read_sample(SAMPLE, half)} for half in ("tuned", "held_back"))
    assert not tuned & held


def test_the_task_of_held_back_prompts_is_told(held_back):
    assert held_back.task >= 0.86
    assert min(share.right for share in held_back.by_task.values()) >= 0.7


def test_the_complexity_of_held_back_prompts_is_told(held_back):
    assert held_back.complexity >= 0.8
    assert min(share.right for share in held_back.by_complexity.values()) >= 0.7


def test_a_verdict_given_with_confidence_is_right():
    verdicts = [(classify(prompt.facts), prompt.task) for prompt in read_sample(SAMPLE, "held_back")]
    confident = [verdict.task == task for verdict, task in verdicts if verdict.confidence > 0.6]
    doubtful = [verdict.task == task for verdict, task in verdicts if verdict.confidence <= 0.6]
    assert sum(confident) / len(confident) >= 0.9
    assert len(confident) >= 0.7 * len(verdicts)
    assert sum(doubtful) / len(doubtful) < sum(confident) / len(confident)


# --------------------------------------------------------------------------- signals


def test_a_code_fence_is_coding_in_a_language_without_cues():
    assert task_of("hvað er að þessu\n```\nlet x = foo(bar);\n```") == "coding"


def test_an_image_makes_it_vision_whatever_is_said():
    assert task_of("extract the total as JSON", images=True) == "vision"


def test_a_response_schema_speaks_for_extraction():
    assert task_of("Rua Nova 12, Lisboa, 1200-001", schema=True) == "extraction"
    assert task_of("Rua Nova 12, Lisboa, 1200-001") != "extraction"


def test_notation_is_mathematics_without_a_word():
    assert task_of("$$\\int_0^1 x^2 dx = ?$$") == "math"


def test_length_makes_a_request_harder():
    order = COMPLEXITIES.index
    short = classify(PromptFacts.of_text("Summarize this."))
    long = classify(PromptFacts.of_text("Summarize this.\n\n" + "He went on. " * 8_000))
    assert order(long.complexity) > order(short.complexity)


def test_the_signals_say_what_spoke_for_the_task():
    assert "code fence" in classify(PromptFacts.of_text("why?\n```\nx=1\n```")).signals
    assert classify(PromptFacts.of_text("Summarize: it rained.")).signals[0] == "Summarize"


def test_the_question_at_the_end_of_long_material_is_heard():
    material = "\n\n".join(["The committee met again in spring and nothing was settled."] * 400)
    assert task_of(f"{material}\n\nPlease summarize this.") == "summarization"


def test_accents_and_case_do_not_matter():
    assert task_of("RESUMEN") == task_of("Résumé :") == "summarization"


# --------------------------------------------------------------------------- facts of a request


def test_facts_hold_the_last_thing_the_user_said():
    facts = chat(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "third"}]},
    )
    assert (facts.text, facts.system, facts.messages) == ("second\nthird", "Be brief.", 4)
    assert facts.total_chars == len("Be brief." + "first" + "answer" + "second" + "third")


def test_facts_are_the_same_however_the_body_is_laid_out():
    body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]}
    compact, laid_out = (PromptFacts.of(openai_chat.parse_request(text.encode(), {})) for text in (
        json.dumps(body, separators=(",", ":")), json.dumps(body, indent=4),
    ))  # fmt: skip
    assert laid_out.text == compact.text == "Say hello."
    assert laid_out.messages == 1


def test_a_tool_result_in_between_does_not_hide_the_user():
    facts = chat(
        {"role": "user", "content": "What is the weather?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "w", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
    )
    assert facts.text == "What is the weather?"


def test_facts_know_images_tools_and_schemas():
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    facts = chat(
        {"role": "user", "content": [image, {"type": "text", "text": "hm"}]},
        tools=[{"type": "function", "function": {"name": "w"}}],
        response_format={"type": "json_object"},
    )
    assert (facts.images, facts.tools, facts.schema, facts.text) == (True, True, True, "hm")
    assert not chat({"role": "user", "content": "hm"}, response_format={"type": "text"}).schema


def test_facts_of_an_anthropic_request():
    body = json.dumps(
        {
            "model": "auto",
            "max_tokens": 9,
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": "Solve x + 1 = 2"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {"text": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
            ],
        }
    ).encode()
    facts = PromptFacts.of(anthropic_messages.parse_request(body, {}))
    assert (facts.text, facts.system, facts.messages) == ("Solve x + 1 = 2", "Be brief.", 3)


@pytest.mark.parametrize(
    "given_input",
    [
        "Solve it",
        [{"role": "user", "content": "Solve it"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "Solve it"}]}],
    ],
)
def test_facts_of_a_responses_request(given_input):
    body = json.dumps({"model": "auto", "input": given_input, "instructions": "Be brief."}).encode()
    facts = PromptFacts.of(openai_responses.parse_request(body, {}))
    assert (facts.text, facts.system) == ("Solve it", "Be brief.")


def test_a_long_text_is_cut_to_its_edges():
    facts = chat({"role": "user", "content": "a" * 50_000 + "b" * 50_000})
    assert len(facts.text) <= 2 * EDGE_CHARS + 2
    assert facts.text.startswith("aaa") and facts.text.endswith("bbb")


# --------------------------------------------------------------------------- robustness


@given(st.text(st.characters()), st.integers(0, 10**9), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_gets_the_same_valid_verdict_every_time(text, total, images, schema):
    facts = PromptFacts(text=text, total_chars=total, images=images, schema=schema)
    verdict = classify(facts)
    assert verdict == classify(facts)
    assert verdict.task in TASKS and verdict.complexity in COMPLEXITIES
    assert 0.0 < verdict.confidence <= 1.0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_a_message_holds_it_is_refused_or_facts_are_made(content):
    body = {"model": "auto", "messages": [{"role": "user", "content": content}], "input": content, "system": content}
    for dialect in (openai_chat, anthropic_messages, openai_responses):
        try:
            request = dialect.parse_request(json.dumps(body | {"max_tokens": 9}).encode(), {})
        except InvalidRequest:
            continue
        classify(PromptFacts.of(request))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\ud800 lone \udfff",
        "\x00" * 500,
        "(" * 100_000,
        "a" * 5_000_000,
        "=" * 4_000,
        "SELECT " * 600,
        "1 " * 2_000,
    ],
)
def test_hostile_texts_are_read_quickly(text):
    started = time.perf_counter()
    classify(PromptFacts.of_text(text))
    assert time.perf_counter() - started < 2.0  # a catastrophic pattern takes minutes


def test_speed_is_printed(capsys):
    prompt = read_sample(SAMPLE, "held_back")[12].text
    for size in (500, 20_000):
        facts = PromptFacts.of_text((prompt * (size // len(prompt) + 1))[:size])
        started = time.perf_counter()
        for _ in range(200):
            classify(facts)
        with capsys.disabled():
            print(f"\nclassify, {size} characters: {(time.perf_counter() - started) / 200 * 1e6:.0f} us")


# --------------------------------------------------------------------------- the command


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("classify", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_shows_a_verdict(tmp_path):
    assert "task        coding" in run("How do I centre a div in CSS?")
    file = tmp_path / "prompt.txt"
    file.write_text("Prove that there is no largest prime.")
    assert json.loads(run("--file", str(file), "--json"))["task"] == "math"


def test_the_command_evaluates_a_sample():
    report = json.loads(run("--evaluate", str(SAMPLE), "--half", "held_back", "--json"))
    assert report["by_task"]["coding"]["prompts"] >= 30
    assert "confidence" in run("--evaluate", str(SAMPLE))


def test_the_command_says_which_line_of_a_sample_is_wrong(tmp_path):
    broken = tmp_path / "sample.jsonl"
    broken.write_text('{"text": "x", "language": "en", "task": "qa", "complexity": "simple"}\n{"text": 1}\n')
    with pytest.raises(CommandError, match="line 2"):
        run("--evaluate", str(broken))


def test_the_command_says_which_file_it_cannot_read(tmp_path):
    with pytest.raises(CommandError, match=r"nowhere\.jsonl: No such file or directory\.$"):
        run("--evaluate", str(tmp_path / "nowhere.jsonl"))
