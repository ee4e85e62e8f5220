"""A view in real Chromium, offline: right numbers, keys and filters that work, and nothing that runs or leaves."""

import pytest
import three_methods
import view_runs
from browser import Watched, chromium

from milepost.recipes.report import pages
from milepost.recipes.report.view import view


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def watch(browser):
    """Open pages that must neither log an error nor ask for anything but themselves."""
    opened = []

    def watch(file, hash="", **kwargs):
        opened.append((Watched(browser, **kwargs), file.resolve().as_uri()))
        return opened[-1][0].open(file, hash)

    yield watch
    for watched, address in opened:
        watched.close()
        assert watched.errors == []
        assert {request.partition("#")[0] for request in watched.requests} == {address}


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    (file,) = view(view_runs.doors(tmp_path_factory.mktemp("runs") / "doors", "10x101x01" * 8, "random"))
    return file


def tasks(page):
    return page.locator("#rows .cell.task b").all_inner_texts()


def opened(page):
    return page.locator("article h2").inner_text()


def shown(page):
    return page.locator("#shown:not([aria-busy])").inner_text()


def test_it_opens_with_the_run_its_success_and_only_the_rows_in_sight(watch, doors):
    page = watch(doors)
    assert page.locator("#run").inner_text().startswith("doors")
    # 72 episodes, 16 failed, 32 of 56 solved
    assert "57.1 % solved [44.1, 69.2] of 56" in page.locator("#run").inner_text()
    assert page.title() == "doors"
    assert shown(page) == "72 episodes; solved 32 of 56, 57.1 % [44.1, 69.2]"
    assert 10 < page.locator("#rows .row").count() < 40
    page.locator("#list").evaluate("node => node.scrollTop = node.scrollHeight")
    page.locator("#rows .task b", has_text="house-71").wait_for()


def test_it_filters_searches_and_sorts(watch, doors):
    page = watch(doors)
    page.select_option("#facet-end", "failed")
    assert shown(page) == "16 episodes clear"
    assert tasks(page)[:3] == ["house-2", "house-6", "house-11"]
    page.select_option("#facet-entry", "gate")
    assert tasks(page)[:2] == ["house-2", "house-11"]
    page.locator("#shown button").click()
    assert shown(page).startswith("72 episodes;")
    page.fill("#search", "HOUSE-7")
    page.locator("#shown", has_text="3 episodes").wait_for()
    assert tasks(page) == ["house-7", "house-70", "house-71"]
    page.fill("#search", "door 1 of house 70")
    page.locator("#rows", has_text="No episode is like that").wait_for()
    page.check("#deep")
    page.locator("#shown", has_text="1 episode").wait_for()
    assert tasks(page) == ["house-70"]
    page.keyboard.press("Escape")
    page.locator("#rows .row").click()
    assert page.locator("article mark").first.inner_text() == "door 1 of house 70"
    page.locator("#shown button").click()
    page.select_option("#sort", "outcome")
    assert page.locator("#rows .cell.outcome").first.inner_text() == "0"
    page.click("#direction")
    assert page.locator("#rows .cell.outcome").first.inner_text() == "1"
    page.locator("#heads button", has_text="task").click()
    assert tasks(page)[:3] == ["house-0", "house-1", "house-2"]
    assert page.locator("#heads [aria-sort=ascending]").inner_text().startswith("task")


def test_it_is_read_by_keyboard_alone(watch, doors):
    page = watch(doors)
    for key, task in (
        ("j", "house-0"),
        ("ArrowDown", "house-1"),
        ("j", "house-2"),
        ("k", "house-1"),
        ("ArrowUp", "house-0"),
    ):
        page.keyboard.press(key)
        page.locator("article h2", has_text=task).wait_for()
        assert opened(page) == page.locator("#rows .row[aria-selected=true] b").inner_text() == task
    assert page.url.endswith("#0")
    for key, turn in (("n", "0"), ("n", "1"), ("n", "2"), ("n", "2"), ("p", "1")):
        page.keyboard.press(key)
        assert page.locator(".turn-row.current").get_attribute("data-turn") == turn
        assert page.evaluate("document.activeElement.dataset.turn") == turn
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    assert opened(page) == "house-0", "one Escape closes one thing"
    page.keyboard.press("/")
    page.keyboard.type("jn?")
    assert page.locator("#search").input_value() == "jn?"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator("article").count() == 0
    assert page.locator(".overview h2").inner_text() == "doors"


def test_a_link_to_an_episode_opens_it(watch, doors):
    page = watch(doors, "#5")
    assert opened(page) == "house-5"
    assert page.locator(".row.open b").inner_text() == "house-5"


def test_the_numbers_of_every_turn_are_those_of_the_record(watch, doors):
    page = watch(doors, "#0")
    # gain -0.25, 0, 0.25; kl is (0.5, -1) over two tokens; late was judged at turn 0 alone
    assert page.locator(".series:not(.axis) .label").all_inner_texts() == ["gain", "kl", "late"]
    assert page.locator(".series:not(.axis) .total").all_inner_texts() == ["+0", "-1.5", "+0"]
    gain, kl, late = page.locator(".series svg").all()
    drawn = [[plot.locator(f".{kind}").count() for kind in ("up", "down", "zero", "none")] for plot in (gain, kl, late)]
    assert drawn == [[1, 1, 1, 0], [0, 3, 0, 0], [0, 0, 1, 2]]
    heights = [float(bar.get_attribute("height")) for bar in kl.locator(".down").all()]
    assert heights[0] == heights[1] == heights[2]
    column = page.locator(".columns button").nth(1)
    assert column.get_attribute("aria-label").startswith("turn 1: gain +0, kl -0.5 over 2 tokens, late never judged")
    page.locator(".columns button").first.focus()
    assert "-0.25" in page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip tr", has_text="kl").inner_text().split("\t") == ["kl", "-0.5 over 2 tokens", "-1"]
    assert page.locator("#tip tr", has_text="late").inner_text().split("\t") == ["late", "never judged", "+0"]
    page.keyboard.press("Enter")
    assert page.locator(".turn-row.current").get_attribute("data-turn") == "1"
    turn = page.locator("#turn-1")
    assert turn.locator(".measure .value").all_inner_texts() == ["+0", "-0.5", "never judged"]
    assert "not executed" in turn.locator("header").inner_text()
    assert "200 + 10 tokens" in turn.locator("header").inner_text()
    assert page.locator(".last").inner_text().splitlines()[-1] == "The street."
    page.mouse.move(0, 0)
    page.locator(".columns button").nth(2).hover()
    assert "turn 2" in page.locator("#tip").inner_text()


def test_a_failure_of_the_machine_is_told_as_one(watch, doors):
    page = watch(doors, "#2")
    assert "never scored. EndpointError: the endpoint is gone" in " ".join(
        page.locator(".failure").inner_text().split()
    )
    assert page.locator(".badge").first.inner_text() == "failed, 3 turns"


def test_the_methods_that_disagree_are_named_where_they_do(watch, tmp_path):
    (file,) = view(three_methods.write(tmp_path / "run"))
    page = watch(file, "#0")
    turn = str(three_methods.DISAGREE)
    assert page.locator(".card .verdict").inner_text() == "The methods disagree most at turn 2: gra +0.5, progress -2."
    assert page.locator(".columns button.gap").get_attribute("data-turn") == turn
    assert page.locator(".turn.gap h3").all_inner_texts() == [f"Turn {turn}"]
    page.keyboard.press("d")
    assert page.locator(".turn-row.current").get_attribute("data-turn") == turn
    call = page.locator("#turn-2 .call")
    assert call.locator(".asked").inner_text().split() == [
        "issue_voucher",
        "call_2",
        "{",
        '"customer":',
        "77,",
        '"amount":',
        "20",
        "}",
    ]
    assert "Voucher V-9 over 20.00 issued" in call.locator(".answered").inner_text()
    assert page.locator("#turn-3 .word").all_inner_texts() == ["thought", "called"], "its result stands beside its call"
    page.screenshot(path=tmp_path / "disagree.png")
    assert (tmp_path / "disagree.png").stat().st_size > 10_000


def test_no_text_of_an_episode_runs_or_hides(watch, tmp_path):
    (file,) = view(view_runs.hostile(tmp_path / "run"))
    page = watch(file, "#0")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("[window.pwned, {}.polluted, Object.prototype.polluted]") == [None, None, None]
    assert page.locator("article script, article a, article svg[onload], article img[onerror]").count() == 0
    for t, text in enumerate(view_runs.HOSTILE[:3]):
        assert page.locator(f"#turn-{t} .saw .text").inner_text() == text
    assert page.locator("#turn-3 .saw .text").inner_text() == (
        "lone \\ud800, nul \\x00, ansi \\x1b[31mred\\x1b[0m, ends \\u2028 \\u2029, rtl \\u202etxt.exe\\u202c"
        ", tag \\u{e0041}"
    )
    assert page.locator("#turn-3 .saw .hidden-char").count() == 9
    assert page.locator(".series .label").all_inner_texts()[:2] == ["__proto__", "constructor"]
    assert page.locator("#turn-5 .saw img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert page.locator("#turn-5 .call img").count() == 1
    assert page.locator("#turn-5 .call").nth(1).inner_text().endswith("no result was recorded")
    assert "not JSON" in page.locator("#turn-5 .call").first.inner_text()
    assert "was shown turns 1\u20132" in page.locator("#turn-5 .shown").inner_text()
    long = page.locator("#turn-4 .saw")
    assert len(long.inner_text()) < 4_000
    long.locator("button", has_text="Show all, 1.0 million characters").click()
    assert long.locator(".text").evaluate("node => node.textContent.length") == len(view_runs.HOSTILE[4])


@pytest.mark.slow
def test_two_thousand_episodes_open_without_inflating_one(watch, tmp_path):
    (file,) = view(view_runs.doors(tmp_path / "run", "10" * 1000, "random", n_turns=12))
    page = watch(file)
    assert page.locator("script[id^=chunk-]").count() == 100
    assert page.locator("html").get_attribute("data-inflated") is None
    assert shown(page).startswith("2,000 episodes; solved 1000 of 2000")
    page.keyboard.press("k")
    page.locator("article h2", has_text="house-1999").wait_for()
    assert page.locator("html").get_attribute("data-inflated") == "1"
    assert page.locator(".turn-row").count() == 12


def test_linked_files_lead_to_each_other(watch, tmp_path, monkeypatch, browser):
    monkeypatch.setattr(pages, "PAGE_EPISODES", 5)
    files = view(view_runs.doors(tmp_path / "run", "1" * 12, "random"))
    watched = Watched(browser)
    page = watched.open(files[0])
    page.locator("#pages a", has_text="3").click()
    page.wait_for_selector("html[data-ready=yes] #rows .row")
    assert page.url == files[2].as_uri()
    assert tasks(page) == ["house-10", "house-11"]
    assert page.locator("#pages a[aria-current=page]").inner_text() == "3"
    assert "of 12" in page.locator("#run").inner_text()
    watched.close()
    assert (watched.errors, watched.requests) == ([], [files[0].as_uri(), files[2].as_uri()])


def test_dark_follows_the_system_and_the_button(watch, doors):
    page = watch(doors, dark=True)

    def ground():
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)"))) / 3

    assert ground() < 60
    page.click("#theme")
    assert (page.locator("#theme").inner_text(), ground() > 200) == ("Theme: light", True)
    page.keyboard.press("t")
    assert (page.locator("#theme").inner_text(), ground() < 60) == ("Theme: dark", True)
    for _ in range(20):  # the browser keeps what a page stores a moment after the page goes on
        page.reload()
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        if page.locator("#theme").inner_text() == "Theme: dark":
            return
    pytest.fail(f"what the button chose is not kept: {page.locator('#theme').inner_text()}")


def test_two_runs_stand_side_by_side_by_task(watch, tmp_path):
    first = view_runs.doors(tmp_path / "first", "1100", "random")
    second = view_runs.doors(tmp_path / "second", "10110", "oracle", n_turns=4)
    (file,) = view(first, second)
    page = watch(file)
    assert "won 2, lost 1" in page.locator("#pane > .verdict").inner_text()
    assert page.locator("#rows .row").count() == 5
    assert page.locator("#rows .row").nth(1).inner_text().split() == ["1", "house-1", "door", "1", "0", "3", "/", "4"]
    assert page.locator("#rows .row").nth(4).inner_text().split()[-5:] == ["\u2013", "0", "\u2013", "/", "4"]
    page.select_option("#facet-pair", "only the second solved")
    assert tasks(page) == ["house-2", "house-3"]
    page.keyboard.press("j")
    page.locator("article.two").wait_for()
    assert page.locator(".side-name").all_inner_texts() == ["first", "second"]
    assert page.locator(".head .badge").all_inner_texts() == [
        "not solved, outcome 0, terminated, 3 turns",
        "solved, outcome 1, terminated, 4 turns",
    ]
    left, right = (page.locator("#turn-0 .turn").nth(i).bounding_box() for i in (0, 1))
    assert (left["y"], left["x"] + left["width"] <= right["x"]) == (right["y"], True)
    assert page.locator(".parting").inner_text() == "The two act differently from turn 2 on"
    page.set_viewport_size({"width": 600, "height": 800})
    assert page.locator("#side").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 600, "a narrow window needs no sideways scrolling"
    page.locator(".back").click()
    assert page.locator("#side").is_visible()
