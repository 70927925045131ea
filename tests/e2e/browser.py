"""A headless Chromium with one person before it: what they see, and everything that went wrong on the way."""

import os
import re
import shutil
import time
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from harness import plain_environment

HOW_TO_GET_IT = "sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium"
# Nothing it may want from other machines, no sandbox (root has none, and every page is ours), no first-run talk.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --no-proxy-server"
).split() + ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"]
# On a busy machine a page with many requests needs a while.
PATIENCE = 20
expect.set_options(timeout=PATIENCE * 1000)


def chromium():
    """Debian's Chromium, or the one that CHROMIUM names. It is never downloaded, and never done without."""
    path = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    if not path:
        pytest.fail(
            "Chromium is missing on this machine. Run this once, or name another one with CHROMIUM=PATH:\n"
            f"    {HOW_TO_GET_IT}",
            pytrace=False,
        )
    return path


def launch():
    """Use as a context: gives one browser, in which everybody gets a window of their own."""
    return _Launched(chromium())


class _Launched:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.playwright = sync_playwright().start()
        try:
            return self.playwright.chromium.launch(executable_path=self.path, args=FLAGS, env=plain_environment())
        except BaseException:
            self.playwright.stop()
            raise

    def __exit__(self, *_):
        self.playwright.stop()  # ends the browser too


class Visitor:
    """One person's window on one server. Leaves pictures, and remembers what went wrong."""

    def __init__(self, browser, name, url, pictures, authorization=None):
        self.name, self.url, self.pictures = name, url, pictures
        headers = {"Authorization": authorization} if authorization else None
        self.context = browser.new_context(
            viewport={"width": 1600, "height": 900}, ignore_https_errors=True, extra_http_headers=headers
        )
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page = self.context.new_page()
        self.troubles = []
        self.waiting = set()
        # The address bar's question for name and password; only asked for by `watch_for_questions`.
        self.questions = []
        self.page.on("request", self._request)
        self.page.on("requestfinished", lambda request: self.waiting.discard(request))
        self.page.on("requestfailed", lambda request: self.waiting.discard(request))
        self.page.on("response", self._response)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"error {error}"))

    def close(self):
        self.context.close()

    # ---- what is noticed

    def _request(self, request):
        # This one is a worker's, and Chromium never says that it is finished.
        if "telemetry-worker" not in request.url:
            self.waiting.add(request)

    def _response(self, response):
        path = urlsplit(response.url).path
        if response.status >= 400:
            self.troubles.append(f"{response.status} {response.request.method} {path}")
        if "www-authenticate" in response.headers:
            self.troubles.append(f"a question for name and password at {path}")

    def _console(self, message):
        # Chromium repeats each bad status here; `_response` has noted it already, with its method.
        if message.type == "error" and "the server responded with a status of" not in message.text:
            self.troubles.append(f"console {_without_places(message.text)}")

    def watch_for_questions(self, name=None, password=None):
        """Notices when Chromium would ask for name and password, and answers once if they are given."""
        session = self.context.new_cdp_session(self.page)

        def asked(event):
            self.questions.append(urlsplit(event["request"]["url"]).path)
            answer = {"response": "CancelAuth"}
            if name and len(self.questions) == 1:
                answer = {"response": "ProvideCredentials", "username": name, "password": password}
            session.send("Fetch.continueWithAuth", {"requestId": event["requestId"], "authChallengeResponse": answer})

        session.on("Fetch.authRequired", asked)
        session.on("Fetch.requestPaused", lambda event: session.send(
            "Fetch.continueRequest", {"requestId": event["requestId"]}))
        session.send("Fetch.enable", {"handleAuthRequests": True})

    # ---- going and looking

    def go(self, path):
        """To a page of MLflow's; the first time the document is loaded, later only the page within it changes."""
        self.page.goto(f"{self.url}/#{path}")

    def sees(self, *texts):
        """Each text is somewhere on the page, for anybody to see."""
        for text in texts:
            expect(self.page.get_by_text(text).filter(visible=True).first).to_be_visible()

    def does_not_see(self, *texts):
        for text in texts:
            expect(self.page.get_by_text(text).filter(visible=True)).to_have_count(0)

    def links(self, start):
        """The texts of the links that lead to things of one kind."""
        return self.page.locator(f'main a[href^="#{start}"]:not([href*="/versions/"])')

    def picture(self, name):
        """When all is quiet, so that nothing of this page is missed or counted on the next."""
        self.settle()
        self.page.screenshot(path=self.pictures / f"{self.name}-{name}.png")

    def settle(self, quiet=0.25):
        end, since = time.monotonic() + PATIENCE, time.monotonic()
        while time.monotonic() - since < quiet:
            self.page.wait_for_timeout(25)
            if self.waiting:
                since = time.monotonic()
            assert time.monotonic() < end, f"unanswered: {[request.url for request in self.waiting]}"

    def button(self, name, within=None):
        return (within or self.page).get_by_role("button", name=name, exact=True)


def _without_places(text):
    """The first line, without anything that differs from server to server."""
    return re.sub(r"https?://[^\s)]+", "URL", text.splitlines()[0])
