"""Readers at their browsers: real Chromium against the real server, which is killed now and then."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.readers.conftest import Built, thesis_strata
from wbc_diffusers.readers.answers import read_sheet
from wbc_diffusers.readers.config import ReaderStudy
from wbc_diffusers.readers.reading import Reading

pytestmark = pytest.mark.slow
PHONE, TABLET = {"width": 390, "height": 844}, {"width": 820, "height": 1180}


class Served:
    """A study in a server process of its own."""

    def __init__(self, built: Built) -> None:
        self.built = built
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "wbc_diffusers",
            "readers",
            "serve",
            str(self.built.folder),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(600):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def link(self, reader: str) -> str:
        return f"http://127.0.0.1:{self.port}/#{self.built.tokens[reader]}"

    def answers(self, reader: str) -> list[dict[str, Any]]:
        reading = Reading(self.built.folder)
        try:
            return [answer.content for answer in reading.store.answers(reader)]
        finally:
            reading.store.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a headless Chromium; without one the tests are skipped, but never in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium: install Debian's package chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def served(real: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Give the thesis's study of 100 cells, with everything that can be asked, for readers of many kinds."""
    config = {
        "title": "Abnormal neutrophils", "strata": thesis_strata(real, made), "consent": "I take part.",
        "readers": ["keys", "touch", "phone", "one", "two", "pauses", "looks", "clicks"],
        "abnormalities": ["hypersegmentation", "dohle_bodies", "hypergranulation"],
    }  # fmt: skip
    study = Served(Built(ReaderStudy.from_dict(config), tmp_path_factory.mktemp("served")))
    yield study
    study.kill()


@pytest.fixture
def serve(build: Callable[..., Built]) -> Iterator[Callable[..., Served]]:
    """Give a function that builds and serves a small study."""
    started = []

    def serve_it(**changes: Any) -> Served:
        started.append(Served(build(**changes)))
        return started[-1]

    yield serve_it
    for each in started:
        each.kill()


def enter(page: Page, link: str) -> None:
    """Open a reader's link, agree and begin, by keyboard."""
    page.goto(link)
    expect(page.locator("#message-button")).to_be_focused()
    reached = "told => !$('reading').hidden || $('message-heading').textContent !== told"
    while not page.locator("#reading").is_visible():
        told = page.locator("#message-heading").text_content()
        page.keyboard.press("Enter")  # once, or the next would answer already
        page.wait_for_function(reached.replace("$", "document.getElementById"), arg=told)
    expect(page.locator(".view img").first).to_be_visible()


def wait_for(page: Page, number: int, total: int) -> None:
    """Wait until a cell is due, or all are done."""
    if number > total:
        expect(page.locator("#message-heading").filter(visible=True)).to_have_text("Thank you")
    else:
        expect(page.locator("#where")).to_have_text(f"{number} of {total}")


def test_a_whole_study_of_100_by_keyboard_alone(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("keys"))
    wanted = []
    for number in range(1, 101):
        wait_for(page, number, 100)
        real, sure, kind, severe = number % 3 > 0, 1 + number % 3, number % 4, number % 2 == 0
        page.keyboard.press("ArrowLeft" if real else "ArrowRight")
        page.keyboard.press(str(sure))
        page.keyboard.press("abcd"[kind])
        answer: dict[str, Any] = {"choice": "real" if real else "synthetic", "confidence": sure}
        answer["abnormality"] = ["none", "hypersegmentation", "dohle_bodies", "hypergranulation"][kind]
        if kind:
            page.keyboard.press("k" if severe else "j")
            answer["grade"] = 2 if severe else 1
        page.keyboard.press("Enter")
        wanted.append(answer)
    wait_for(page, 101, 100)
    assert served.answers("keys") == wanted
    page.close()


def test_a_whole_study_of_100_by_touch(served: Served, browser: Browser) -> None:
    context = browser.new_context(viewport=TABLET, has_touch=True)
    page = context.new_page()
    page.goto(served.link("touch"))
    page.get_by_role("button", name="I agree").tap()
    page.get_by_role("button", name="Begin").tap()
    for number in range(1, 101):
        wait_for(page, number, 100)
        for name in ("Synthetic" if number % 2 else "Real", "Sure", "None"):
            page.locator("#groups label", has_text=re.compile(f"^{name}")).tap()
        page.get_by_role("button", name="Next").tap()
    wait_for(page, 101, 100)
    assert [answer["choice"] for answer in served.answers("touch")] == ["synthetic", "real"] * 50
    context.close()


def test_a_killed_server_and_a_closed_browser_lose_nothing(serve: Callable[..., Served], browser: Browser) -> None:
    served = serve()
    page = browser.new_page()
    enter(page, served.link("anna"))
    for number in (1, 2, 3):
        wait_for(page, number, 8)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
    wait_for(page, 4, 8)
    served.kill()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#trouble")).to_contain_text("No connection")
    served.start()
    wait_for(page, 5, 8)
    page.close()
    assert [answer["choice"] for answer in served.answers("anna")] == ["real"] * 3 + ["synthetic"]
    page = browser.new_page()
    page.goto(served.link("anna"))
    page.get_by_role("button", name="Go on").click()
    wait_for(page, 5, 8)
    for number in range(5, 9):
        wait_for(page, number, 8)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    wait_for(page, 9, 8)
    assert len(served.answers("anna")) == 8
    assert (read_sheet(served.built.folder, served.built.key).answers >= 0).all()
    page.close()


def test_two_readers_at_once_do_not_see_each_other(served: Served, browser: Browser) -> None:
    pages = {name: browser.new_context().new_page() for name in ("one", "two")}
    for name, page in pages.items():
        enter(page, served.link(name))
    for number in range(1, 6):
        for name, key in (("one", "ArrowLeft"), ("two", "ArrowRight")):
            wait_for(pages[name], number, 100)
            for each in (key, "1", "a", "Enter"):
                pages[name].keyboard.press(each)
    for page in pages.values():
        wait_for(page, 6, 100)
        page.context.close()
    assert {answer["choice"] for answer in served.answers("one")} == {"real"}
    assert {answer["choice"] for answer in served.answers("two")} == {"synthetic"}


def test_on_a_phone_all_is_within_the_window_and_large_enough(served: Served, browser: Browser) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=3)
    page = context.new_page()
    enter(page, served.link("phone"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    image = page.locator(".view img").bounding_box()
    assert image is not None
    assert image["width"] > 300
    assert image["y"] + image["height"] < PHONE["height"]
    for target in page.locator("#groups label:visible, button:visible").all():
        box = target.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
    next_box = page.locator("#next").bounding_box()
    assert next_box is not None
    assert next_box["y"] + next_box["height"] <= PHONE["height"]
    context.close()


def test_a_pause_hides_the_cell_and_stops_the_clock(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("pauses"))
    page.keyboard.press("p")
    expect(page.locator("#reading")).to_be_hidden()
    page.wait_for_timeout(2500)
    page.keyboard.press("Enter")
    expect(page.locator("#reading")).to_be_visible()
    for key in ("ArrowLeft", "1", "a", "Enter"):
        page.keyboard.press(key)
    wait_for(page, 2, 100)
    reading = Reading(served.built.folder)
    (answer,), events = reading.store.answers("pauses"), [kind for kind, _ in reading.store.events("pauses")]
    reading.store.close()
    assert 0 < answer.seconds < 2
    assert events[-2:] == ["paused", "resumed"]
    page.close()


def test_back_shows_the_answer_and_takes_another(serve: Callable[..., Served], browser: Browser) -> None:
    served = serve(confidences=3)
    page = browser.new_page()
    enter(page, served.link("anna"))
    for key in ("ArrowLeft", "3", "Enter"):
        page.keyboard.press(key)
    wait_for(page, 2, 8)
    page.keyboard.press("Backspace")
    wait_for(page, 1, 8)
    expect(page.get_by_role("radio", name="Real")).to_be_checked()
    expect(page.locator("input[name=confidence][value='3']")).to_be_checked()
    expect(page.locator("#back")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(page, 2, 8)
    assert served.answers("anna") == [{"choice": "synthetic", "confidence": 3}]
    page.close()


def test_nothing_is_sent_before_every_question_is_answered(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("looks"))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#trouble")).to_have_text("Please answer every question.")
    assert served.answers("looks") == []
    page.close()


def test_the_last_answer_can_be_changed_when_all_are_given(serve: Callable[..., Served], browser: Browser) -> None:
    study = serve()
    page = browser.new_page()
    enter(page, study.link("anna"))
    for number in range(1, 9):
        wait_for(page, number, 8)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
    wait_for(page, 9, 8)
    page.keyboard.press("Enter")
    wait_for(page, 9, 8)
    page.locator("#message-button").click()
    wait_for(page, 8, 8)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(page, 9, 8)
    assert [answer["choice"] for answer in study.answers("anna")] == 7 * ["real"] + ["synthetic"]
    page.close()


def test_nothing_moves_while_answers_are_chosen_and_keys_lead_out_of_the_comment(
    serve: Callable[..., Served], browser: Browser
) -> None:
    study = serve(abnormalities=["hypersegmentation", "dohle_bodies"], comments=True)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    enter(page, study.link("anna"))

    def places() -> list[Any]:
        return [each.bounding_box() for each in page.locator("#groups label, #next").all()]

    before = places()
    for key in ("ArrowRight", "b", "k"):
        page.keyboard.press(key)
    assert places() == before
    page.keyboard.press("a")
    expect(page.locator("#group-grade")).to_have_css("visibility", "hidden")
    page.locator("textarea").press_sequentially("a p b")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    wait_for(page, 2, 8)
    assert study.answers("anna") == [{"choice": "synthetic", "abnormality": "none", "comment": "a p b"}]
    page.close()


def test_zoom_and_brightness_change_how_a_cell_looks(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("looks"))
    image = page.locator(".view img")
    before = image.bounding_box()
    page.keyboard.press("+")
    page.keyboard.press("+")
    after = image.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(1.25**2 * before["width"], rel=0.01)
    page.locator("#brightness").fill("120")
    assert "brightness(120%)" in image.evaluate("e => e.style.filter")
    page.close()


def test_left_and_right_are_the_choice_also_after_a_click_elsewhere(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("clicks"))
    page.keyboard.press("ArrowRight")
    page.locator("#group-confidence label").nth(1).click()
    sure = page.locator("#group-confidence input").nth(1)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Real")).to_be_checked()
    expect(sure).to_be_checked()
    page.keyboard.press("ArrowDown")  # steps through the group
    expect(page.locator("#group-confidence input").nth(2)).to_be_checked()
    expect(page.get_by_role("radio", name="Real")).to_be_checked()
    page.close()


def test_shortcuts_can_be_switched_off(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    enter(page, served.link("looks"))
    page.get_by_label("Keys as shortcuts").uncheck()
    page.locator("#question").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Real")).not_to_be_checked()
    for name in ("choice", "confidence", "abnormality"):
        page.locator(f"#group-{name} label").first.click()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#where")).to_have_text(re.compile("^2 of"))
    expect(page.get_by_label("Keys as shortcuts")).not_to_be_checked()
    page.locator("#question").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Real")).not_to_be_checked()
    page.close()


def test_practice_tells_the_truth(serve: Callable[..., Served], browser: Browser) -> None:
    served = serve(training=1)
    page = browser.new_page()
    enter(page, served.link("anna"))
    expect(page.locator("#where")).to_have_text("For practice: 1 of 2")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#feedback")).to_have_text(re.compile(r"^(Right|Not right)\. This cell is (real|synthetic)\.$"))
    page.keyboard.press("Enter")
    expect(page.locator("#where")).to_have_text("For practice: 2 of 2")
    page.close()


def test_pairs_are_shown_side_by_side(serve: Callable[..., Served], browser: Browser) -> None:
    served = serve(question="which_is_real")
    page = browser.new_page(viewport=PHONE)
    enter(page, served.link("anna"))
    left, right = (page.get_by_alt_text(f"The {side} cell").bounding_box() for side in ("left", "right"))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert right["x"] + right["width"] <= PHONE["width"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(page, 2, 4)
    assert served.answers("anna") == [{"choice": "right"}]
    page.close()


def test_the_pages_are_accessible_by_the_rules_of_wcag(served: Served, browser: Browser) -> None:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(served.link("looks"))
    expect(page.locator("#message-button")).to_be_focused()
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    assert Axe().run(page, options=rules).response["violations"] == []
    enter(page, served.link("looks"))
    assert Axe().run(page, options=rules).response["violations"] == []
    context.close()


def test_a_link_that_is_unknown_or_missing_is_told(served: Served, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{served.port}/#nobody")
    expect(page.locator("#message-heading")).to_contain_text("This link is not known here")
    page.close()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{served.port}/")
    expect(page.locator("#message-heading")).to_contain_text("Please open the personal link")
    page.close()


def test_another_readers_link_in_the_same_tab_is_that_readers(serve: Callable[..., Served], browser: Browser) -> None:
    served = serve(readers=["anna", "ben"])
    page = browser.new_page()
    enter(page, served.link("anna"))
    page.evaluate(f"location.hash = '#{served.built.tokens['ben']}'")
    expect(page.locator("#message-button")).to_be_focused()
    page.keyboard.press("Enter")
    wait_for(page, 1, 8)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    wait_for(page, 2, 8)
    assert (len(served.answers("anna")), len(served.answers("ben"))) == (0, 1)
    page.close()


def test_clicks_that_come_twice_and_keys_that_are_held_do_nothing_twice(
    serve: Callable[..., Served], browser: Browser
) -> None:
    served = serve(training=1, consent="I agree.")
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.route("**/api/images/**", lambda route: (time.sleep(0.3), route.continue_()))
    page.goto(served.link("anna"))
    expect(page.locator("#message-button")).to_be_focused()
    page.keyboard.down("Enter")
    page.keyboard.down("Enter")  # as a key that is held repeats
    page.keyboard.up("Enter")
    expect(page.locator("#message-heading")).to_have_text("Instructions")
    page.get_by_role("button", name="Begin").dblclick()
    expect(page.locator("#where")).to_have_text("For practice: 1 of 2")
    page.locator("#groups label", has_text="Real").click()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#feedback")).to_be_visible()
    page.get_by_role("button", name="Next").dblclick()
    expect(page.locator("#where")).to_have_text("For practice: 2 of 2")
    expect(page.locator("#feedback")).to_be_hidden()
    assert errors == []
    assert len(served.answers("anna")) == 1
    page.close()


def test_paths_that_no_client_cleans_up_reach_no_file(served: Served) -> None:
    for path in (
        "/../key/key.json",
        "/..%2f..%2fkey%2fkey.json",
        "/images/../study.json",
        "//answers.sqlite",
        "/./study.json",
    ):
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda line=line: line.recv(65536), b""))
        assert answer.split()[1] == b"404"
        assert b"token" not in answer


def test_a_second_server_of_the_same_study_is_refused(served: Served) -> None:
    command = [sys.executable, "-m", "wbc_diffusers", "readers", "serve", str(served.built.folder), "--port", "1"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert second.returncode == 2
    assert "is being served already" in second.stderr
