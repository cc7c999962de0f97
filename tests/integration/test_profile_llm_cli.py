"""The command line with an engine that asks: the plan, the price, and what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scripted_llm import scripted_server
from tests.tiny_llm import make_tokenizer
from tests.tools import TINY, asking_run, cli_here

pytestmark = pytest.mark.llm


@pytest.fixture
def config(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "run.yaml"
    text = asking_run(TINY, "http://127.0.0.1:9/v1", tokenizer,
                      "actors: 0, batch_size: 40, tokens_per_second: 1000, price_per_hour: 36",
                      "gate: {language: false}")
    file.write_text(f"{text}\nstorage: {{uri: {tmp_path / 'storage'}}}\n")
    return file


@pytest.mark.timeout(900)
def test_plan_price_and_profiles(config: Path) -> None:
    first = cli_here("profile", "--dry-run", "-c", str(config))
    assert first.returncode == 0 and "run `mentorec prepare` with this configuration first" in first.stdout
    assert cli_here("prepare", "-q", "-c", str(config)).returncode == 0
    planned = cli_here("profile", "--dry-run", "-c", str(config))
    found = re.search(r"at most ([\d.,]+) hours at 1,000 tokens/s; price ([\d.,]+)", planned.stdout)
    assert found is not None, planned.stdout + planned.stderr
    assert float(found[2].replace(",", "")) == pytest.approx(36 * float(found[1].replace(",", "")), rel=0.1)
    with scripted_server() as server:
        url = f"profile.engine.base_url={server.url}"
        dear = cli_here("profile", "-q", "-c", str(config), url, "profile.max_cost_without_confirm=0.01")
        assert dear.returncode == 2 and "give --yes to go on" in dear.stderr and dear.stderr.count("\n") == 1
        assert not server.asked
        agreed = cli_here("profile", "-c", str(config), url, "profile.max_cost_without_confirm=0.01", "--yes")
        assert agreed.returncode == 0, agreed.stderr
        counted = re.search(r"to be asked: ([\d,]+) requests", planned.stdout)
        first = [asked for asked in server.asked if "<profile" not in asked.prompt]  # merges come later
        assert counted is not None and len(first) == int(counted[1].replace(",", ""))
        again = cli_here("profile", "-c", str(config), url)
        assert "nothing to do" in again.stdout
        changed = cli_here("profile", "-c", str(config), url, "profile.engine.sampling.temperature=0.3")
        assert "config.engine.sampling.temperature: 0.7 → 0.3" in changed.stderr
