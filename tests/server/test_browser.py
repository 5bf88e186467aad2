"""Contract under test: a person types into the page and sees tokens stream in. The page shows which
model each token came from. With another method the text is the same. The tests run if Chromium is
installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sbrt.server.service import Service, Settings

spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
browser = importlib.util.module_from_spec(spec)
spec.loader.exec_module(browser)

pytestmark = pytest.mark.skipif(
    browser.found() is None, reason="page: expected a Chromium on PATH, found none"
)
SETTINGS = {"temperature": 0, "max_tokens": 48}
IDLE = "document.querySelector('#stop').disabled"
LAST = "[...document.querySelectorAll('.answer')].at(-1)"
TEXT = f"[...{LAST}.querySelectorAll('span:not(.who)')].map(s => s.textContent).join('')"
KINDS = f"[...new Set([...{LAST}.querySelectorAll('span:not(.who)')].map(s => s.className))].sort()"

WATCH = f"""
    window.lengths = new Set();
    new MutationObserver(() => lengths.add({LAST}?.textContent.length))
        .observe(document.querySelector('#log'), {{ childList: true, subtree: true }});
"""


@pytest.fixture
def page(tmp_path):
    found = browser.Page(tmp_path)
    yield found
    found.close()


def visit(page, url):
    page.call("Page.navigate", url=url)
    page.until("document.querySelector('#status')?.textContent === 'ready'")
    page.value("document.querySelector('#tokens').value = 48")


def ask(page, text):
    """Type a prompt, send it and wait for the end. Return how many different lengths the answer had
    while it streamed."""
    count = page.value("document.querySelectorAll('.answer').length")
    page.value("document.querySelector('#prompt').focus()")
    page.value(WATCH)
    page.type(text, "Enter")
    page.until(f"document.querySelectorAll('.answer').length > {count} && {IDLE}")
    return page.value("lengths.size")


def choose(page, method):
    page.value(f"document.querySelector('#method').value = '{method}'")
    assert page.value("document.querySelector('#method').value") == method


def requested(page):
    """Return the addresses that the page has requested, and the errors of the page."""
    events = [(e["method"], e["params"]) for e in page.events if "method" in e]
    urls = [p["request"]["url"] for name, p in events if name == "Network.requestWillBeSent"]
    wrong = [p for name, p in events if name == "Runtime.exceptionThrown"]
    logged = [p["entry"] for name, p in events if name == "Log.entryAdded"]
    wrong += [entry for entry in logged if entry["level"] in ("warning", "error")]
    return urls, wrong


def test_a_conversation(served, page, tools, plain, engine):
    """An answer streams in colours, with figures and lanes. Other methods give the same text."""
    visit(page, served.url)
    methods = page.value("[...document.querySelector('#method').options].map(o => o.value)")
    assert methods == ["", *engine.method_names]
    said = [{"role": "user", "content": "def area("}]
    want = plain(tools.render(said), **SETTINGS).text
    texts, kinds = {}, {}
    for method in ("none", "pearl", "draft_model"):
        page.value("document.querySelector('#clear').click()")
        choose(page, method)
        parts = ask(page, "def area(")
        assert parts > 3
        texts[method], kinds[method] = page.value(TEXT), page.value(KINDS)
        figures = page.value("document.querySelector('#figures').textContent")
        assert "48 tokens" in figures
        assert "tokens/s" in figures
        assert "rolled back" in figures
        drawn = "document.querySelector('#lanes').toDataURL().length"
        assert not page.value("document.querySelector('#lanes').hidden")
        assert page.value(drawn) > 1000
    assert texts == dict.fromkeys(texts, want)
    assert kinds["none"] == ["own"]
    assert "accepted" in kinds["draft_model"]
    assert "branch" in kinds["pearl"]
    urls, wrong = requested(page)
    assert wrong == []
    assert all(url.startswith((served.url, "data:")) for url in urls)


def test_a_second_message_goes_on_with_the_conversation(served, page, tools, plain):
    visit(page, served.url)
    ask(page, "def area(")
    first = page.value(TEXT)
    ask(page, "import os")
    said = [
        {"role": "user", "content": "def area("},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "import os"},
    ]
    assert page.value(TEXT) == plain(tools.render(said), **SETTINGS).text


def test_what_a_model_writes_is_text(served, page):
    """Markup in a prompt or an answer is shown as text; it makes no HTML element."""
    visit(page, served.url)
    ask(page, "<img id=bad src=x><script id=worse></script>")
    assert page.value("document.querySelectorAll('#bad, #worse').length") == 0
    assert "<img id=bad" in page.value("document.querySelector('.turn').textContent")


def test_stop_ends_an_answer_and_the_page_goes_on(served, page, engine, tools):
    visit(page, served.url)
    page.value("document.querySelector('#tokens').value = 900")
    page.value("document.querySelector('#prompt').focus()")
    page.type("def area(", "Enter")
    page.until(f"!!{LAST}?.querySelector('span:not(.who)')")
    page.value("document.querySelector('#stop').click()")
    page.until(IDLE)
    assert "stopped" in page.value(f"{LAST}.textContent")
    tools.until(lambda: not engine.has_unfinished_requests())
    page.value("document.querySelector('#tokens').value = 4")
    ask(page, "x")
    assert page.value(TEXT)


def test_a_page_without_template_completes_and_asks_for_the_key(page, tools, plain):
    service = Service(Settings(names=("demo",), api_key="secret"))
    with tools.listening(service, tools.demo_engine()) as found:
        page.call("Page.navigate", url=found.url)
        page.until("document.querySelector('#key-field')?.hidden === false")
        page.value("document.querySelector('#key').focus()")
        page.type("secret")
        page.value("document.querySelector('#key').dispatchEvent(new Event('change'))")
        page.until("document.querySelector('#status').textContent === 'ready'")
        page.value("document.querySelector('#tokens').value = 48")
        ask(page, "def area(")
        assert page.value(TEXT) == plain("def area(", **SETTINGS).text
        page.value("document.querySelector('#temperature').value = -1")
        ask(page, "x")
        assert "temperature" in page.value(f"{LAST}.textContent")
        assert page.value(f"{LAST}.classList.contains('error')")
