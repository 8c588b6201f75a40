"""A web page of another origin, in a headless Chromium, shows what the server streams, its errors and its breaks.

Chromium is Debian's (`apt install chromium`), driven by playwright: it speaks to the browser over a pipe of its own,
waits for the page instead of for time, and ends the browser's whole tree of processes. (Selenium would need a
chromedriver of just this Chromium's version, and a port.) No browser is downloaded; where one of the two is missing,
all of this is skipped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from aivvm import MODELS
from aivvm_testing import FakeAivvm, Reply, wait

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A chat</title>
<select id="models"></select>
<form><input id="question" value="Hello"><button>Ask</button></form>
<pre id="answer"></pre>
<p id="error"></p>
<p id="state">new</p>
<script type="module">
const api = new URLSearchParams(location.search).get('api');
const [models, form, question, answer, error, state] =
  ['#models', 'form', '#question', '#answer', '#error', '#state'].map((name) => document.querySelector(name));
window.sizes = [];  // of what each read gave
window.shown = [];  // each text that was ever on the page
new MutationObserver(() => {
  if (answer.textContent != shown.at(-1)) shown.push(answer.textContent);
}).observe(answer, { childList: true });

async function post(path, body) {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(api + path, { method: 'POST', headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return response;
}

async function attempt(what) {
  try {
    await what();
    state.textContent = 'done';
  } catch (failure) {
    error.textContent = failure.message;
    state.textContent = 'failed';
  }
}

form.onsubmit = (event) => {
  event.preventDefault();
  attempt(async () => {
    const messages = [{ role: 'user', content: question.value }];
    const response = await post('/api/chat', { model: { id: models.value }, messages, key: '', prompt: '' });
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      sizes.push(piece.value.length);
      answer.textContent += decoder.decode(piece.value, { stream: true });
    }
    answer.textContent += decoder.decode();
  });
};

attempt(async () => {
  for (const { id, name } of await (await post('/api/models', { key: '' })).json()) models.add(new Option(name, id));
});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    mark = f"--tested-by={uuid4()}"
    with sync_api.sync_playwright() as playwright:
        # Without its sandbox, which root cannot have: all that it opens is ours.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=[mark])
        if sys.platform == "linux":
            assert processes(mark)
        yield browser
        browser.close()
    assert not processes(mark)


def processes(mark: str) -> list[str]:
    """The processes that were started with this argument, as Linux lists them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(mark) in command.split(b"\0"):
            found.append(entry.parent.name)
    return found


@pytest.fixture
def pages() -> Iterator[str]:
    """The page's own origin: another server, on another port."""
    fake = FakeAivvm()
    page = Reply.of(PAGE, headers={"content-type": "text/html; charset=utf-8"})
    fake.on(path="/").reply(page, forever=True)
    with fake.server() as server:
        yield server.url


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """One tab for all tests, as each opens the page anew, and the errors of scripts in it."""
    errors: list[str] = []

    def on_error(error: object) -> None:
        errors.append(str(error))

    with browser.new_page() as page:
        page.set_default_timeout(10_000)  # milliseconds
        page.on("pageerror", on_error)
        yield page, errors


@pytest.fixture
def page(tab: tuple[Page, list[str]]) -> Iterator[Page]:
    """The tab, in which no error of a script goes unnoticed."""
    page, errors = tab
    yield page
    assert errors == []


def opened(page: Page, pages: str, api: str) -> None:
    """Opens the page, and returns when it has tried to list the models."""
    page.goto(f"{pages}/?api={api}")
    page.wait_for_function("state.textContent != 'new'")


def ask(page: Page) -> None:
    page.evaluate("state.textContent = 'asked'")
    page.click("button")


def answered(page: Page) -> str:
    """What the page shows when the answer is over."""
    page.wait_for_function("state.textContent != 'asked'")
    return page.inner_text("#answer")


def test_a_page_lists_the_models_and_shows_the_text_as_it_grows(page: Page, pages: str):
    fake = FakeAivvm().reply(Reply.of("The first part, ", wait(1.5), "the second."))
    with fake, fake.server(cors=True) as server:
        opened(page, pages, server.url)
        assert page.locator("option").all_inner_texts() == [model.name for model in MODELS.values()]
        ask(page)
        page.wait_for_function("answer.textContent == 'The first part, '")
        call = fake.calls[-1]
        assert (call.chunks_taken, call.outcome) == (1, "open")  # the second has not been sent
        assert answered(page) == "The first part, the second."
    assert page.evaluate("shown") == ["The first part, ", "The first part, the second."]
    assert (call.chunks_taken, call.outcome) == (2, "played")


def test_a_character_that_is_split_between_two_reads_is_one_character(page: Page, pages: str):
    fake = FakeAivvm().reply(Reply.of(b"a\xf0\x9f", wait(0.5), b"\x98\x80b"))
    with fake, fake.server(cors=True) as server:
        opened(page, pages, server.url)
        ask(page)
        assert answered(page) == "a😀b"
    assert page.evaluate("sizes") == [3, 3]
    assert page.evaluate("shown") == ["a", "a😀b"]


REFUSALS = {
    "500 Rate limit reached: 3 / min": Reply.error(500, reason="Rate limit reached: 3 / min"),
    "500 Límite alcanzado": Reply.error(500, reason="Límite alcanzado"),
    "429 Too Many Requests": Reply.error(429, retry_after=20),
    "Failed to fetch": Reply.no_answer("cut"),
}


@pytest.mark.parametrize("shown", REFUSALS)
def test_a_page_shows_why_there_is_no_answer(page: Page, pages: str, shown: str):
    fake = FakeAivvm().reply(REFUSALS[shown], forever=True)
    with fake.server(cors=True) as server:
        opened(page, pages, server.url)
        ask(page)
        assert answered(page) == ""
        assert page.inner_text("#error") == shown


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_break_is_an_error_after_the_text_so_far(page: Page, pages: str, kind: str):
    reply = Reply.of("The text so far ", wait(0.5), "and")
    fake = FakeAivvm().reply(reply.cut() if kind == "cut" else reply.reset())
    with fake, fake.server(cors=True) as server:
        opened(page, pages, server.url)
        ask(page)
        assert answered(page).startswith("The text so far ")
        assert page.inner_text("#error") == "network error"
        assert page.inner_text("#state") == "failed"


def test_only_a_page_of_the_origin_that_may_can_read(page: Page, pages: str):
    for cors, may in [(False, False), (True, True), (pages, True), ("http://localhost:1", False)]:
        with FakeAivvm().server(cors=cors) as server:
            opened(page, pages, server.url)
            if may:
                ask(page)
                assert (answered(page), page.inner_text("#error")) == ("Hello", "")
            else:
                assert page.inner_text("#error") == "Failed to fetch"
