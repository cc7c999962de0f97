"""One user's way to a profile: division of long histories, merges, retries, budgets, and what a refresh asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from pipeline.profile.llm.chat import ChatTokenizer
from pipeline.profile.llm.config import OpenAIEngine
from pipeline.profile.llm.conversation import ITEM_TOO_LONG
from pipeline.profile.llm.dividing import groups, halve, latest, merge_sizes
from pipeline.profile.llm.replay import ProfileState, Replayer
from pipeline.profile.llm.requests import Answer, Author, Failure, Request
from pipeline.profile.prompts.gate import Gate
from pipeline.profile.prompts.prompt_set import PromptSet
from pipeline.profile.prompts.user_facts import UserFacts
from pipeline.work.hub import ModelFiles
from tests.tiny_llm import make_tokenizer

TEXT = "A calm person who favours fresh floral scents and small makers. " * 3


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return ChatTokenizer("t", ModelFiles(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))))


class Model:
    """Answers requests when asked to, and remembers them."""

    def __init__(self, write: Callable[[Request], Answer | Failure]) -> None:
        self.write = write
        self.known: dict[str, Answer | Failure] = {}
        self.asked: list[Request] = []

    def answer(self, wanted: Sequence[Request]) -> None:
        for request in wanted:
            assert request.key not in self.known
            self.asked.append(request)
            self.known[request.key] = self.write(request)


def engine(**changes: Any) -> OpenAIEngine:
    values: dict[str, Any] = {"base_url": "http://h/v1", "model": "m", "tokenizer": "/t", "gate": {"enabled": False},
                              "sampling": {"max_tokens": 60}, "max_model_len": 1400, **changes}
    return OpenAIEngine(**values)


def replayer(chat: ChatTokenizer, model: Model, config: OpenAIEngine) -> Replayer:
    prompts = PromptSet.of(config.prompt, "long")
    return Replayer(config, prompts, Gate(config.gate, config.prompt, "long"), chat,
                  Author({"model": "m"}), "now", model.known.get)


def told(text: str) -> Answer:
    return Answer(text, "stop", 1, 1, "now")


def distinct(request: Request) -> Answer:
    """No two requests have the same answer."""
    return told(f"{request.key[:8]}: {TEXT}")


def play(chat: ChatTokenizer, lines: list[str], config: OpenAIEngine, write: Callable[[Request], Answer | Failure],
         angle: str = "overall") -> tuple[ProfileState, Model, list[list[Request]]]:
    model, passes = Model(write), []
    for _ in range(50):
        result = replayer(chat, model, config).replay(lines, [], UserFacts(), angle)
        if not result.wanted:
            return result, model, passes
        passes.append(list(result.wanted))
        model.answer(result.wanted)
    raise AssertionError("no end")


def content(request: Request) -> str:
    return request.prompt.messages[-1]["content"]


def items(count: int) -> list[str]:
    return [f"item-{n:04d} lavender rose soap with cedar | rated 4 of 5" for n in range(count)]


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
@pytest.mark.parametrize("count", [3, 60, 400])
def test_each_item_stands_in_exactly_one_prompt_and_every_prompt_fits(chat: ChatTokenizer, strategy: str,
                                                                      count: int) -> None:
    config = engine(long_history={"strategy": strategy})
    result, model, passes = play(chat, items(count), config, distinct)
    assert result.text is not None and result.reason is None
    found = [name for request in model.asked for name in re.findall(r"item-\d{4}", content(request))]
    assert sorted(found) == [f"item-{n:04d}" for n in range(count)]
    assert max(len(request.prompt.tokens) for request in model.asked) <= config.prompt_budget == 1340
    first = replayer(chat, Model(distinct), config).replay(items(count), [], UserFacts(), "overall").usage
    assert first.first == len(passes[0]) and first.first_tokens == sum(len(r.prompt.tokens) for r in passes[0])
    later = [request for one in passes[1:] for request in one]
    assert len(later) == first.later
    assert sum(len(request.prompt.tokens) for request in later) <= first.later_tokens
    assert (count == 3) == (len(model.asked) == 1)
    assert count < 400 or len(model.asked) > 10, "ten times what a prompt holds"


def test_long_histories_are_merged_in_levels_in_order(chat: ChatTokenizer) -> None:
    config = engine(max_model_len=1100)
    number = iter(range(1000))
    _, model, passes = play(chat, items(400), config, lambda request: told(f"profile-{next(number):03d}. {TEXT}"))
    assert len(passes) > 2, "several levels of merging"
    kinds = [{request.prompt.kind for request in one} for one in passes]
    assert kinds[0] == {"leaf"} and all(one == {"merge"} for one in kinds[1:])
    for one in passes[1:]:
        told_in = [name for request in one for name in re.findall(r"profile-\d{3}", content(request))]
        assert told_in == sorted(told_in)
    assert len(passes[-1]) == 1


def test_the_same_user_gets_the_same_requests(chat: ChatTokenizer) -> None:
    config = engine()
    runs = [play(chat, items(200), config, distinct)[1].asked for _ in range(2)]
    assert [request.key for request in runs[0]] == [request.key for request in runs[1]]


def test_cut_tells_the_latest_items_that_fit_and_counts_the_others(chat: ChatTokenizer) -> None:
    config = engine(long_history={"strategy": "cut"})
    result, model, _ = play(chat, items(300), config, distinct)
    found = re.findall(r"item-(\d{4})", content(model.asked[0]))
    assert [int(n) for n in found] == list(range(300 - len(found), 300))
    assert result.usage.left_out == 300 - len(found) > 0
    one_more = replayer(chat, model, config)
    lines = items(300)[-len(found) - 1:]
    assert len(chat.ids(one_more.prompts.leaf(lines, UserFacts(), "overall", None))) > config.prompt_budget


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with", "cut"])
def test_an_item_too_long_for_any_prompt_is_a_reason(chat: ChatTokenizer, strategy: str) -> None:
    lines = ["word " * 3000]
    result, model, _ = play(chat, lines, engine(long_history={"strategy": strategy}), distinct)
    assert (result.text, result.reason, model.asked) == (None, ITEM_TOO_LONG, [])


def test_a_context_too_small_for_a_merge_is_told(chat: ChatTokenizer) -> None:
    config = engine(sampling={"max_tokens": 700}, max_model_len=1900)
    with pytest.raises(ConfigError, match="raise max_model_len"):
        play(chat, items(200), config, distinct)


def test_instructions_that_fill_the_context_are_told(chat: ChatTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"the instructions alone take \d+ of the 100 tokens"):
        play(chat, items(1), engine(max_model_len=160), distinct)


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
def test_texts_far_beyond_their_limit_are_cut_to_the_bound(chat: ChatTokenizer, strategy: str) -> None:
    config = engine(long_history={"strategy": strategy})
    wild = "\U0001f40b🐙 ßÄ€ " * 400
    result, model, passes = play(chat, items(120), config, lambda request: told(request.key + wild))
    assert result.text is not None and len(passes) > 1
    assert max(len(request.prompt.tokens) for request in model.asked) <= config.prompt_budget


def test_a_bad_answer_is_asked_for_again_with_the_next_seed(chat: ChatTokenizer) -> None:
    config = engine(gate={"enabled": False, "retries": 2}, sampling={"max_tokens": 60, "seed": 5})
    result, model, _ = play(chat, items(3), config, lambda r: told("" if r.seed < 7 else TEXT))
    assert [request.seed for request in model.asked] == [5, 6, 7]
    assert len({request.key for request in model.asked}) == 3
    assert result.text is not None and result.usage.retried == 2 and result.usage.refusals == ["empty", "empty"]


def test_after_the_last_retry_the_reason_stands(chat: ChatTokenizer) -> None:
    config = engine(gate={"enabled": False, "retries": 1})
    result, model, _ = play(chat, items(3), config, lambda r: told(" \n"))
    assert (result.text, result.reason, len(model.asked)) == (None, "whitespace", 2)
    result, _, _ = play(chat, items(3), config, lambda r: Failure("HTTP 500"))
    assert result.reason == "no answer: HTTP 500"


def test_one_bad_part_asks_only_that_part_again(chat: ChatTokenizer) -> None:
    config = engine(gate={"enabled": False, "retries": 1})
    _, model, passes = play(chat, items(200), config,
                            lambda r: told("") if 'part="2 of' in content(r) and r.seed == 0 else distinct(r))
    assert len(passes[1]) == 1 and 'part="2 of' in content(passes[1][0]) and passes[1][0].seed == 1


def is_of(request: Request, parts: Sequence[int]) -> bool:
    return request.prompt.kind != "merge" and any(f'part="{part} of' in content(request) for part in parts)


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
@pytest.mark.parametrize("parts", [(1,), (2,), (1, 2), (4,)])
def test_a_part_whose_answers_are_refused_is_left_out(chat: ChatTokenizer, strategy: str, parts: tuple[int, ...]
                                                      ) -> None:
    config = engine(gate={"enabled": False, "retries": 1}, long_history={"strategy": strategy})
    result, model, _ = play(chat, items(100), config,
                            lambda request: told("") if is_of(request, parts) else distinct(request))
    assert result.text is not None and result.usage.refusals == ["empty"] * 2 * len(parts)
    lost = {name for request in model.asked if is_of(request, parts)
            for name in re.findall(r"item-\d{4}", content(request))}
    assert result.usage.left_out == len(lost) > 0
    planned = replayer(chat, Model(distinct), config).replay(items(100), [], UserFacts(), "overall").usage
    accepted = [request for request in model.asked if not is_of(request, parts)]
    assert len(accepted) <= planned.first + planned.later - len(parts)
    assert sum(len(request.prompt.tokens) for request in accepted) <= planned.first_tokens + planned.later_tokens


@pytest.mark.parametrize("strategy", ["agg_after", "agg_with"])
def test_where_all_parts_are_refused_the_reason_stands(chat: ChatTokenizer, strategy: str) -> None:
    config = engine(gate={"enabled": False, "retries": 0}, long_history={"strategy": strategy})
    result, _, _ = play(chat, items(100), config, lambda request: told(""))
    assert (result.text, result.reason) == (None, "empty") and result.usage.left_out == 100


def test_a_refused_merge_is_a_reason(chat: ChatTokenizer) -> None:
    config = engine(gate={"enabled": False, "retries": 0})
    result, _, _ = play(chat, items(200), config,
                        lambda request: told("") if request.prompt.kind == "merge" else distinct(request))
    assert (result.text, result.reason) == (None, "empty")


def test_a_part_without_an_answer_is_not_left_out(chat: ChatTokenizer) -> None:
    """The server may answer the next command."""
    config = engine(gate={"enabled": False, "retries": 0})
    result, _, _ = play(chat, items(200), config,
                        lambda request: Failure("HTTP 500") if 'part="2 of' in content(request) else distinct(request))
    assert result.reason == "no answer: HTTP 500"


def test_a_longer_history_leaves_the_prompts_of_others_alone(chat: ChatTokenizer) -> None:
    config = engine()
    _, before, _ = play(chat, items(5), config, distinct)
    again = replayer(chat, before, config)
    assert again.replay(items(5), [], UserFacts(), "overall").text is not None
    assert len(again.replay(items(6), [], UserFacts(), "overall").wanted) == 1


def test_angles_are_different_prompts(chat: ChatTokenizer) -> None:
    keys = {angle: play(chat, items(5), engine(), distinct, angle)[1].asked[0].key
            for angle in ("overall", "recent", "favourites")}
    assert len(set(keys.values())) == 3


def test_the_key_holds_author_seed_and_prompt() -> None:
    messages = [{"role": "user", "content": "x"}]
    keys = {Author({"model": "a"}).key(messages, 0), Author({"model": "b"}).key(messages, 0),
            Author({"model": "a"}).key(messages, 1), Author({"model": "a"}).key([{"role": "user", "content": "y"}], 0)}
    assert len(keys) == 4 and Author({"model": "a"}).key(json.loads(json.dumps(messages)), 0) in keys


def test_clip_keeps_to_the_limit_and_to_the_beginning(chat: ChatTokenizer) -> None:
    assert chat.clip(TEXT, 10_000) == TEXT
    short = chat.clip(TEXT, 7)
    assert TEXT.startswith(short) and 0 < chat.count(short) <= 7
    assert chat.count(chat.clip("🐙" * 100, 5)) <= 5


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path)
    for file in folder.iterdir():
        if file.name == "chat_template.jinja":
            file.unlink()
        elif file.name == "tokenizer_config.json":
            values = json.loads(file.read_text())
            values.pop("chat_template", None)
            file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="no chat template"):
        ChatTokenizer("profile.engine.model", ModelFiles(str(folder)))


@given(count=st.integers(1, 300), most=st.integers(1, 40))
def test_halving_covers_everything_once(count: int, most: int) -> None:
    spans = halve(count, lambda span: span[1] - span[0] <= most)
    assert spans is not None
    assert [n for start, stop in spans for n in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= most for start, stop in spans)


def test_what_cannot_be_halved_is_none() -> None:
    assert halve(5, lambda span: 3 not in range(*span)) is None


@given(count=st.integers(1, 200), most=st.integers(1, 40))
def test_latest_is_the_longest_that_fits(count: int, most: int) -> None:
    assert latest(count, lambda span: span[1] - span[0] <= most) == (max(0, count - most), count)
    assert latest(count, lambda span: False) is None


@given(count=st.integers(1, 300), most=st.integers(2, 20))
def test_groups_and_merge_sizes(count: int, most: int) -> None:
    found = groups(count, most)
    assert [n for start, stop in found for n in range(start, stop)] == list(range(count))
    assert max(stop - start for start, stop in found) <= most
    assert sum(merge_sizes(count, most)) - len(merge_sizes(count, most)) == count - 1, "each merge takes k and leaves 1"
