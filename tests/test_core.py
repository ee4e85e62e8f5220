"""An episode of any shape says what each agent had seen, what it got and what it is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import shapes

from milepost.envs.core import Action, ContractError, Episode, Mixed, Stop, Tokens, Turn, Utf8, groups_of


def rows(episode: Episode) -> list[list[int]]:
    row: list[int] = []
    result = []
    for turn in episode.turns:
        tokens = turn.action.tokens
        assert tokens is not None
        row = [*row[: tokens.keep], *tokens.context.tolist(), *tokens.ids.tolist()]
        result.append(row)
    return result


def test_a_view_is_the_history_up_to_a_turn():
    assert shapes.long(3).view(1) == [
        {"role": "system", "content": "Go on."},
        {"role": "user", "content": "o0"},
        {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "o1"},
    ]


def test_the_last_view_ends_with_what_followed_the_last_action():
    episode = shapes.long(5000)
    messages = episode.view(5000)
    assert len(messages) == 1 + 2 * 5000 + 1
    assert messages[-1] == {"role": "user", "content": "done"}


def test_a_view_of_no_turn_is_refused():
    with pytest.raises(ValueError, match=r"expected a turn of 0\.\.3, got 4"):
        shapes.long(3).view(4)


def test_an_image_is_a_part_that_holds_the_array():
    episode = shapes.pictures()
    text, image = episode.view(0)[0]["content"]
    assert text == {"type": "text", "text": "the page"}
    seen = episode.turns[0].observation
    assert isinstance(seen, dict)
    assert image["image"] is seen["images"][0]
    assert [part["type"] for part in episode.view(1)[2]["content"]] == ["image"]


def test_a_success_that_is_told_outweighs_the_outcome():
    episode = shapes.pictures()
    assert (episode.outcome, episode.success) == (0.25, True)
    del episode.turns[-1].info["success"]
    assert episode.success is False


def test_tool_calls_and_their_results_are_messages_of_their_own():
    _, said, first, second = shapes.calls().view(1)
    assert said["reasoning_content"] == "where?"
    assert [call["function"]["arguments"] for call in said["tool_calls"]] == ['{"q": "x"}', '{"page": ']
    assert first == {"role": "tool", "tool_call_id": "c1", "content": "found"}
    assert second["tool_call_id"] == "c2"


def test_each_agent_sees_its_own_turns():
    episode = shapes.self_play()
    assert [message["content"] for message in episode.view(2)] == ["You are white.", "w sees 0", "e4", "w sees 2"]
    assert [message["content"] for message in episode.view(3)] == ["You are black.", "b sees 1", "e5", "b sees 3"]


def test_a_part_has_the_turns_the_instructions_and_the_outcome_of_its_agent():
    episode = shapes.self_play()
    white, black = episode.part("white"), episode.part("black")
    assert white.turns == [episode.turns[0], episode.turns[2]]
    assert white.turns[0] is episode.turns[0]
    assert (white.instructions, white.outcome, white.success) == ("You are white.", 1.0, True)
    assert (black.outcome, black.success) == (0.0, False)
    with pytest.raises(ContractError, match=r"ask episode\.part\(agent\)\.outcome"):
        _ = episode.outcome


def test_groups_are_by_group_and_agent():
    groups = groups_of([shapes.self_play(), shapes.self_play()])
    assert [[part.outcome for part in group] for group in groups] == [[1.0, 1.0], [0.0, 0.0]]


def test_a_summary_and_the_kept_turns_are_what_was_seen():
    contents = [message["content"] for message in shapes.dropped().view(3)]
    assert contents == ["Play.", "so far: a0, a1", "o2", "a2", "o3"]


def test_a_row_grows_and_a_smaller_keep_forks_it():
    assert rows(shapes.dropped()) == [[10, 0], [10, 0, 11, 1], [10, 0, 11, 1, 12, 2], [10, 50, 12, 2, 13, 3]]
    assert len(rows(shapes.long(100))[-1]) == 300


def test_tokens_are_equal_by_value_with_nan_equal_to_itself():
    def unknown() -> Tokens:
        return Tokens(0, np.array([1], np.int32), np.array([2], np.int32), np.array([np.nan], np.float32))

    assert unknown() == unknown()
    assert unknown() != shapes.tokens(0, [1], [2])
    assert shapes.tokens(0, [1], [2]) != shapes.tokens(0, [1], [2], version=1)


def test_what_a_turn_earned_is_written_once():
    turn = Turn("o", Action("a"))
    turn.put("igpo", None)
    with pytest.raises(ContractError, match="'igpo' of this turn is already written"):
        turn.put("igpo", 0.0)
    assert turn.credit == {"igpo": None}


def test_token_credit_has_a_number_per_sampled_token():
    turn = shapes.dropped().turns[0]
    with pytest.raises(ContractError, match=r"expected shape \(1,\), got \(2,\)"):
        turn.put("kl", np.zeros(2, np.float32))
    turn.put("kl", np.zeros(1, np.float32))


@pytest.mark.parametrize("stop", [Stop.FAILED, Stop.CANCELLED, None])
def test_what_failed_was_cancelled_or_goes_on_has_no_outcome(stop):
    episode = Episode(turns=[Turn("o", Action("a"), info={"outcome": 0.0, "success": False})], stop=stop)
    assert (episode.outcome, episode.success) == (None, None)


def test_a_limit_without_a_score_is_not_solved_and_has_no_outcome():
    episode = Episode(turns=[Turn("o", Action("a"))], stop=Stop.MAX_TURNS)
    assert (episode.outcome, episode.success) == (None, False)


def test_what_is_left_out_of_the_groups_is_counted():
    scored = shapes.long(2)
    groups = groups_of(
        [
            scored,
            shapes.versions(),
            Episode(stop=Stop.FAILED),
            Episode(stop=Stop.MAX_TOKENS),
            Episode(turns=[Turn("o", Action("a"))], stop=Stop.MAX_TURNS),
        ]
    )
    assert groups == [[scored]]
    assert groups.skipped == {"cancelled": 1, "failed": 1, "empty": 1, "unscored": 1}


def test_the_info_before_a_turn_is_that_of_the_step_before():
    episode = Episode(info={"potential": -2}, turns=[Turn("o", Action("a"), info={"potential": -1})])
    assert [episode.info_before(t)["potential"] for t in (0, 1)] == [-2, -1]


def test_spaces_take_any_text_and_mixed_observations():
    assert "snow \u2603\n" in Utf8()
    assert all(turn.observation in Mixed() for episode in shapes.every() for turn in episode.turns)
    assert {"text": "a", "sound": "b"} not in Mixed()
    assert {} not in Mixed()
    assert Utf8(seed=3).sample() == Utf8(seed=3).sample()
