"""An evaluation keeps every episode that ends, plays nothing twice, and says how to go on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from eval_agents import LADDER, choose, counted, priced
from rich.console import Console

from milepost.agents.core import ContextFull, Request
from milepost.agents.scripted import ScriptedPolicy
from milepost.envs.core import Action, Stop
from milepost.envs.runs import read_episodes, read_run
from milepost.envs.scripted_endpoint import Fault, ScriptedEndpoint
from milepost.recipes.cli import main
from milepost.recipes.evaluate import Entry, Panel, evaluate
from milepost.recipes.evaluate import live as live_lines
from milepost.recipes.evaluate.live import Live
from milepost.recipes.evaluate.meter import Meter
from milepost.recipes.evaluate.results import read_results
from milepost.recipes.report.embed import listed
from milepost.recipes.report.rows import row
from milepost.recipes.report.show import show
from milepost.sandbox.core import EndpointError

FORTY: dict[str, Any] = {"attempts": 10, "watch": "nothing"}


class Flaky:
    """Climbs; the first time that it is asked in an episode of ``fails``, the machine fails."""

    version = 0

    def __init__(self, *fails: str) -> None:
        self.fails = list(fails)
        self.episodes: Counter[str] = Counter()

    def act(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request):
        first = len(request.messages) == 2
        self.episodes[request.episode] += first
        for name in [name for name in self.fails if name in request.episode]:
            if not first:
                self.fails.remove(name)
                return EndpointError("503: overloaded")
        return Action("climb")

    def forget(self, episode_ids):
        pass


def test_what_the_oracle_reaches_is_returned_and_written(tmp_path: Path):
    done = evaluate(LADDER, "oracle", out=tmp_path / "run", watch="nothing")
    assert (done.n, done.complete, done.failed, done.success.rate) == (4, True, 0, 1.0)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == done.to_json()
    assert read_run(tmp_path / "run").status == "finished"
    assert [e.group for e in sorted(done.episodes(), key=lambda e: e.group)] == [
        f"{LADDER}/{task}" for task in ("lime 5", "lime 6", "pear 5", "pear 6")
    ]
    for episode in done.episodes():
        assert (episode.runtime["agent"], episode.runtime["entry"], episode.split) == ("oracle", LADDER, "test")


@pytest.mark.parametrize("concurrency", [1, 7, 64])
def test_results_are_equal_for_any_concurrency(concurrency: int, tmp_path: Path):
    whole = evaluate(LADDER, ScriptedPolicy(priced), out=tmp_path / "whole", concurrency=16, **FORTY)
    other = evaluate(LADDER, ScriptedPolicy(priced), out=tmp_path / "other", concurrency=concurrency, **FORTY)
    assert 0.0 < whole.success.rate < 1.0
    assert counted(other.to_json()) == counted(whole.to_json())


def test_a_failed_episode_is_recorded_counted_and_played_again_alone(tmp_path: Path):
    out, agent = tmp_path / "run", Flaky("lime 5", "pear 6")
    first = evaluate(LADDER, agent, out=out, watch="nothing")
    assert (first.complete, first.failed, first.overall.played, first.success.rate) == (False, 2, 2, 1.0)
    assert first.failures == {"milepost.sandbox.core.EndpointError: 503: overloaded": 2}
    assert read_run(out).status == "stopped"
    again = evaluate(LADDER, agent, out=out, resume=True, watch="nothing")
    assert (again.complete, again.failed, again.success.rate) == (True, 0, 1.0)
    assert sorted(agent.episodes.values()) == [1, 1, 2, 2]
    stops = Counter(episode.stop for episode in read_episodes(out))
    assert stops == {Stop.TERMINATED: 4, Stop.FAILED: 2}


def test_a_finished_run_is_read_and_not_played_again(tmp_path: Path):
    done = evaluate(LADDER, "oracle", out=tmp_path / "run", watch="nothing")
    assert evaluate(LADDER, "oracle", out=tmp_path / "run", resume=True, watch="nothing").to_json() == done.to_json()
    assert len(list(read_episodes(tmp_path / "run"))) == 4


def test_the_budget_ends_the_run_and_a_bigger_one_goes_on_to_equal_results(tmp_path: Path):
    whole = evaluate(LADDER, ScriptedPolicy(priced), out=tmp_path / "whole", **FORTY)
    assert whole.paid["cost"] == pytest.approx(0.01 * sum(len(e.turns) for e in whole.episodes()))
    out = tmp_path / "run"
    part = evaluate(LADDER, ScriptedPolicy(priced), out=out, max_cost=0.5, concurrency=4, **FORTY)
    assert part.stopped is not None
    assert part.stopped.startswith("--max-cost 0.5 is reached: 0.5")
    assert not part.complete
    assert part.paid["cost"] == pytest.approx(0.5, abs=0.05)  # four are under way when it is reached
    assert part.stopped.endswith(f": {part.paid['cost']:.4g} is spent")
    kept = {episode.id for episode in part.episodes() if episode.stop is not Stop.CANCELLED}
    assert kept
    done = evaluate(LADDER, ScriptedPolicy(priced), out=out, max_cost=9, resume=True, **FORTY)
    assert done.complete
    assert counted(done.to_json() | {"paid": 0}) == counted(whole.to_json() | {"paid": 0})
    assert done.paid["cost"] > whole.paid["cost"]  # what was cancelled is paid as well
    ids = Counter(episode.id for episode in read_episodes(out) if episode.stop is not Stop.CANCELLED)
    assert set(ids.values()) == {1}


def test_what_was_paid_and_not_played_counts_against_the_budget_of_a_resumed_run(tmp_path: Path):
    n_paid = 0

    class Prompt(ScriptedPolicy):
        async def act(self, requests):  # type: ignore[override]
            nonlocal n_paid
            n_paid += len(requests)
            return super().act(requests)

    run: dict[str, Any] = {"out": tmp_path / "run", "concurrency": 40, **FORTY}
    for max_cost in (0.2, 0.5):
        part = evaluate(LADDER, Prompt(priced), max_cost=max_cost, resume=True, **run)
        assert part.stopped
        assert part.paid["cost"] == pytest.approx(0.01 * n_paid)
        assert part.paid["tokens"]["prompt"] == 10 * n_paid


def test_a_budget_needs_answers_that_say_what_they_cost(tmp_path: Path):
    with pytest.raises(ValueError, match="--max-cost needs the cost of every answer: give --prices FILE"):
        evaluate(LADDER, ScriptedPolicy(["climb"]), out=tmp_path / "run", max_cost=1.0, watch="nothing")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_whatever_interrupts_the_run_what_is_finished_is_kept(error, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ended, out = [], tmp_path / "run"

    def interrupting(live: Live, episode, entry) -> None:
        ended.append(episode)
        if len(ended) == 9:
            raise error

    monkeypatch.setattr(Live, "ended", interrupting)
    with pytest.raises((KeyboardInterrupt, OSError)):
        evaluate(LADDER, ScriptedPolicy(priced), out=out, concurrency=4, **FORTY)
    monkeypatch.undo()
    told = json.loads((out / "results.json").read_text())
    assert 9 <= told["played"] < 40
    assert not told["complete"]
    done = evaluate(LADDER, ScriptedPolicy(priced), out=out, resume=True, **FORTY)
    assert done.complete
    whole = evaluate(LADDER, ScriptedPolicy(priced), out=tmp_path / "whole", **FORTY)
    assert counted(done.to_json() | {"paid": 0}) == counted(whole.to_json() | {"paid": 0})


def test_credit_during_play_and_after_it_is_in_the_run_also_after_a_resume(tmp_path: Path):
    out, credit = tmp_path / "run", ("progress", "gra")
    part = evaluate(LADDER, Flaky("lime 5"), out=out, credit=credit, attempts=2, watch="nothing")
    assert part.failed == 2 - 1
    evaluate(LADDER, Flaky(), out=out, credit=credit, attempts=2, resume=True, watch="nothing")
    done = evaluate(LADDER, Flaky(), out=tmp_path / "whole", credit=credit, attempts=2, watch="nothing")
    assert done.complete
    earned = [
        {e.id: [turn.credit for turn in e.turns] for e in evaluation.episodes()}
        for evaluation in (done, evaluate(LADDER, Flaky(), out=out, credit=credit, attempts=2, resume=True))
    ]
    assert earned[0] == earned[1]
    assert all({"progress", "gra"} == set(turn) for turns in earned[0].values() for turn in turns)


def test_a_method_is_set_by_its_options(tmp_path: Path):
    paid = {}
    for terms in ("{}", '{"dust": 0.5}'):
        told: dict[str, Any] = {"credit": ("dra",), "credit_option": [f"dra.terms={terms}"], "watch": "nothing"}
        done = evaluate(LADDER, "random", out=tmp_path / str(len(terms)), **told)
        paid[terms] = [sum(turn.credit["dra"] or 0.0 for turn in e.turns) - (e.outcome or 0.0) for e in done.episodes()]
    assert not any(paid["{}"])
    assert any(paid['{"dust": 0.5}'])


def test_an_endpoint_is_evaluated_and_its_failures_are_tried_again(tmp_path: Path):
    def answer(request):
        return choose(request["messages"][-1]["content"], 0)

    faults = [Fault("status", 503, every=5, times=4)]
    with ScriptedEndpoint(answer, faults=faults) as base_url:
        done = evaluate(LADDER, "openai:scripted", base_url=base_url, out=tmp_path / "run", watch="nothing")
    assert (done.complete, done.failed) == (True, 0)
    assert done.overall.tokens["prompt"] > 0
    assert {e.runtime["base_url"] for e in done.episodes()} == {base_url}


def test_with_prices_an_endpoint_costs_what_its_tokens_cost(tmp_path: Path):
    (tmp_path / "prices.toml").write_text("[scripted]\nprompt = 2.0\ncompletion = 8.0\n")
    with ScriptedEndpoint("climb") as base_url:
        told: dict[str, Any] = {"base_url": base_url, "prices": tmp_path / "prices.toml", "watch": "nothing"}
        done = evaluate(LADDER, "openai:scripted", out=tmp_path / "run", max_cost=1e-4, concurrency=1, **told)
        again = evaluate(LADDER, "openai:scripted", out=tmp_path / "run", max_cost=9, resume=True, **told)
    assert (done.complete, again.complete) == (False, True)
    tokens = again.paid["tokens"]
    assert again.paid["cost"] == pytest.approx((2 * tokens["prompt"] + 8 * tokens["completion"]) / 1e6)
    assert 1e-4 <= done.paid["cost"] < again.overall.cost


def test_an_outside_program_is_evaluated_and_ended(tmp_path: Path):
    program = f"sh {Path(__file__).parent / 'agents' / 'climb.sh'}"
    done = evaluate(LADDER, f"exec:{program}", out=tmp_path / "run", watch="nothing")
    assert (done.complete, done.success.rate) == (True, 1.0)
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if "climb.sh" in " ".join(child.cmdline())]


def test_the_seconds_of_an_agent_that_does_not_tell_them_are_measured_and_its_tokens_stay_unknown(tmp_path: Path):
    def slow(messages: list[dict[str, Any]]) -> str:
        time.sleep(0.02)
        return "climb"

    done = evaluate(LADDER, slow, out=tmp_path / "run", tasks="pear 5", watch="nothing")
    assert done.overall.seconds is not None
    assert 5 * 0.02 <= done.overall.seconds < 5
    (episode,) = done.episodes()
    assert listed(0, episode, "ladder")["tokens"] is None
    assert row(episode, lambda name: b"")["prompt_tokens"] is None


def test_a_scaffold_and_a_context_shape_what_the_agent_sees(tmp_path: Path):
    seen = []

    def agent(messages):
        seen.append(messages)
        return "Thought: up\nAction: climb"

    done = evaluate(LADDER, agent, scaffold="react", context="last:2", out=tmp_path / "run", watch="nothing")
    assert done.success.rate == 1.0
    assert "Thought:" in seen[0][0]["content"]
    assert max(map(len, seen)) < 2 * 6
    assert {e.runtime["scaffold"]["name"] for e in done.episodes()} == {"react"}
    assert done.pinned["scaffold"] == "react"


def test_the_digest_is_of_what_changes_numbers_and_not_of_the_agent(tmp_path: Path):
    def digest(agent: str, name: str, **settings) -> str:
        return evaluate(LADDER, agent, out=tmp_path / name, watch="nothing", **settings).digest

    first = digest("oracle", "a")
    assert digest("random", "b", concurrency=1) == first
    others = {digest("oracle", "c", seed=1), digest("oracle", "d", max_turns=7), digest("oracle", "e", attempts=2)}
    assert len({first, *others}) == 4


def test_a_panel_that_pins_another_version_says_so_in_the_results(tmp_path: Path):
    (tmp_path / "p.toml").write_text(
        f'name = "p"\n[versions]\nmilepost = "0.0.1"\n[[entries]]\nname = "l"\nenv = "{LADDER}"\n'
    )
    done = evaluate(str(tmp_path / "p.toml"), "oracle", out=tmp_path / "run", watch="nothing")
    (warning,) = done.to_json()["warnings"]
    assert warning.startswith("the panel p pins milepost 0.0.1; here it is")
    assert isinstance(done.panel, Panel)


def test_episodes_that_an_agent_had_no_room_to_begin_are_told(tmp_path: Path):
    def agent(messages, episode: str):
        if "lime" in episode:
            raise ContextFull("4,096 tokens")
        return "climb"

    done = evaluate(LADDER, agent, out=tmp_path / "run", watch="nothing")
    (warning,) = done.warnings
    assert warning.startswith("2 of 4 episodes ended before their first turn")
    assert read_results(tmp_path / "run").warnings == done.warnings


def test_the_command_prints_a_table_lines_and_where_the_run_is(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", LADDER, "--agent", "oracle"]) == 0
    out, err = capsys.readouterr()
    assert "100.0 % [51, 100]" in out
    assert err == "4 of 4 done, 0 running, success 100.0 % [51, 100], 0:00 left\n"
    (run,) = tmp_path.glob("runs/eval-oracle-*")
    assert f"{run.relative_to(tmp_path)}   digest " in out
    (row,) = [line.split()[1] for line in out.splitlines() if "100.0 %" in line]
    assert row == "Ladder-v0"


def test_a_file_gets_a_line_when_something_changed_and_not_before(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(live_lines, "EVERY_S", 0.01)
    done = evaluate(LADDER, "oracle", out=tmp_path / "run", watch="nothing")
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    with Live(done.panel, done, Meter(), 4, "lines") as live:
        for n in (1, 2):
            live.begun()
            while f"{n} running" not in told.getvalue():
                time.sleep(0.01)
            time.sleep(0.1)  # ten times as long as a line takes
    assert [line[:25] for line in told.getvalue().splitlines()][-2:] == [
        "4 of 4 done, 1 running, s",
        "4 of 4 done, 2 running, s",
    ]


def test_the_table_that_a_terminal_shows_counts_by_entry(tmp_path: Path):
    two = tuple(Entry(name=name, env=LADDER, max_turns=turns) for name, turns in (("long", 8), ("short", 5)))
    done = evaluate(Panel(name="two", entries=two), Flaky("short/lime 5"), out=tmp_path / "run", watch="nothing")
    live = Live(done.panel, done, Meter(), 1, "nothing")
    live.begun()
    live.ended(next(e for e in done.episodes() if e.stop is Stop.FAILED), "short")
    console = Console(record=True, width=90, file=io.StringIO())
    console.print(live.table())
    cells = [line.replace("\u2502", " ").split() for line in console.export_text().splitlines()]
    assert ["long", "4/4", "0", "100.0", "%", "[51,", "100]"] in cells
    assert ["short", "3/4", "1", "33.3", "%", "[6,", "79]"] in cells
    assert ["all", "7/8", "1", "71.4", "%", "[36,", "92]"] in cells
    show(tmp_path / "run", as_json=True, console=Console(file=(written := io.StringIO())))
    assert json.loads(written.getvalue())["summary"]["n"] == done.n
    show(tmp_path / "run", console=console)  # the same tasks in two entries are two games
    assert "71.4 %" in console.export_text()


def test_json_is_results_json_and_nothing_else(tmp_path: Path, capsys):
    out = tmp_path / "run"
    assert main(["eval", LADDER, "--agent", "oracle", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ((out / "results.json").read_text(), "")


def test_an_incomplete_run_ends_with_1_and_the_line_that_goes_on(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ScriptedEndpoint("climb", faults=[Fault("filter", every=7)]) as base_url:
        words = ["eval", LADDER, "--agent", "openai:scripted", "--base-url", base_url]
        monkeypatch.setattr("milepost.envs.endpoint.Endpoint.chat", _failing)
        assert main(words) == 1
        err = capsys.readouterr().err
        (run,) = tmp_path.glob("runs/*")
        again = f"milepost eval {LADDER} --agent openai:scripted --base-url {base_url} --out runs/{run.name} --resume"
        assert err.endswith(f"milepost: 4 failed; what was finished is kept. Go on with: {again}\n")
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert main(again.split()[1:]) == 0


async def _failing(*_, **__):
    raise EndpointError("503: overloaded")


@pytest.mark.slow
def test_the_oracle_solves_the_whole_smoke_panel_with_cold_caches(tmp_path: Path):
    words = [sys.executable, "-m", "milepost.recipes.cli", "eval", "smoke", "--agent", "oracle", "--json"]
    cold = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = subprocess.run(words, cwd=tmp_path, env=cold, capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout)
    assert (told["complete"], told["success"]["rate"]) == (True, 1.0)


def test_a_model_in_this_process_is_evaluated_and_credit_may_ask_it(tmp_path: Path):
    done = evaluate(LADDER, "local:tiny", out=tmp_path / "run", max_tokens=2, max_turns=2, credit="progress,prime")
    assert (done.complete, done.overall.turns) == (True, 2.0)
    assert done.overall.tokens["completion"] > 0
    assert all({"progress", "prime"} == set(turn.credit) for e in done.episodes() for turn in e.turns)
