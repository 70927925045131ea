"""The pages of our own in a real Chromium, without an identity provider: the password form, the account page, tokens.

By keyboard, without JavaScript, on a narrow screen, in light and dark.
"""

import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from conftest import running
from harness import Http, Proxy, basic, plain_environment, secret, unique, wait_until

ACCOUNT = "/auth/account"
ME = "/auth/api/v1/me"
# Of every element that shows a text of its own: its contrast with what lies behind it, as WCAG 2 counts it.
CONTRASTS = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const color = channels(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const shown = [...document.querySelectorAll("body *")].filter(element =>
    element.checkVisibility() && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  return shown.map(element => {
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(ground(element))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName + " " + element.textContent.trim()];
  });
}"""


@pytest.fixture(scope="module")
def front(mlflow_server, tmp_path_factory):
    """People sign in with the form, or at one of two providers, of which neither is there today."""
    providers = {}
    for name in ("FIRST", "SECOND"):
        key = f"OIDC__PROVIDERS__{name}__"
        providers |= {f"{key}ISSUER": f"http://127.0.0.1:9/{name.lower()}", f"{key}CLIENT_ID": "mlflow",
                      f"{key}CLIENT_SECRET": "not-used", f"{key}DISPLAY_NAME": f"{name.title()} company"}
    settings = {"AUTHN__PASSWORD_FORM": "true", **providers}
    yield from running(Proxy(tmp_path_factory.mktemp("account") / "proxy", mlflow_server.url, settings=settings))


@pytest.fixture
def window(visit, front):
    person = front.person("someone")
    window = visit("account", front.url)
    window.person = person
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return window


def sign_in(window, path=ACCOUNT):
    page = window.page
    page.goto(window.url + path)
    page.get_by_label("User name").fill(window.person.name)
    page.get_by_label("Password").fill(window.person.password)
    window.button("Sign in").click()


def make_token(page, name):
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("heading", name="Access token created")).to_be_visible()
    return secret(page.locator("pre").first.inner_text())


def confirm(page, summary, button):
    """Opens the question behind a button, and answers it."""
    page.get_by_label(summary, exact=True).click()
    page.get_by_role("button", name=button, exact=True).click()


def look(window, name):
    """A picture in light and in dark, each legible, and nothing beside a narrow screen."""
    page = window.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        window.picture(f"{name}-{scheme}")
        pale = [(round(contrast, 2), text[:60]) for contrast, text in page.evaluate(CONTRASTS) if contrast < 4.5]
        assert not pale, f"{name} in {scheme}: {pale}"
    page.emulate_media(color_scheme="light")
    for width in (400, 320):
        page.set_viewport_size({"width": width, "height": 640})
        window.picture(f"{name}-{width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.set_viewport_size({"width": 1600, "height": 900})


def test_each_page_is_legible_in_light_and_dark_and_on_a_narrow_screen(window):
    page = window.page
    page.goto(window.url + ACCOUNT)
    expect(page.get_by_role("link", name="Sign in with First company")).to_be_visible()
    look(window, "sign-in")
    sign_in(window)
    expect(page.get_by_role("heading", name="Account", exact=True)).to_be_visible()
    look(window, "account")
    make_token(page, unique("notebook"))
    look(window, "new-token")
    page.get_by_role("link", name="Back to account").click()
    look(window, "account-with-a-token")
    page.set_viewport_size({"width": 400, "height": 640})
    for label in ("Expires", "Last used"):
        expect(page.locator(f"td[data-label='{label}']").first).to_be_visible()
    page.get_by_label("Revoke notebook").first.click()
    expect(page.get_by_role("button", name="Revoke token")).to_be_visible()
    look(window, "account-asks-before-revoking")
    page.get_by_role("link", name="Sign out").click()
    look(window, "sign-out")
    window.button("Sign out").click()
    expect(page.get_by_role("heading", name="Signed out")).to_be_visible()
    look(window, "signed-out")
    # Nothing was refused, and nothing was complained about: no style, script or form that the page's own policy forbids.
    assert window.troubles == []
    page.get_by_role("link", name="Sign in again").click()
    page.get_by_role("link", name="Sign in with Second company").click()
    expect(page.get_by_text("The identity provider cannot be reached")).to_be_visible()
    look(window, "error")


def test_what_is_copied_works_where_it_is_pasted(window, front, tmp_path):
    page = window.page
    sign_in(window)
    name = unique("pasted")
    token = make_token(page, name)
    copied = {}
    for title in ("The token", "Shell", ".env file", "Notebook"):
        page.get_by_role("button", name=f"Copy: {title}", exact=True).click()
        copied[title] = page.evaluate("navigator.clipboard.readText()")
    assert copied["The token"] == token
    assert token not in page.url

    # As bash, with what the real client then does; as a cell; as a file that another shell reads.
    program = "import mlflow; print(mlflow.create_experiment('%s'))"
    cell = f"{copied['Notebook']}\n" + program.removeprefix("import mlflow; ")
    file = tmp_path / ".env"
    file.write_text(copied[".env file"])
    python = f"{sys.executable} -c \"{program}\""
    ways = {
        "shell": ["bash", "-c", f"{copied['Shell']}\n{python % unique('shell')}"],
        "notebook": [sys.executable, "-c", cell % unique("cell")],
        ".env": ["bash", "-c", f"set -a; . '{file}'; {python % unique('env')}"],
    }
    for way, command in ways.items():
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=plain_environment(), cwd=tmp_path)
        assert done.returncode == 0 and re.search(r"^\d+$", done.stdout, re.M), f"{way}: {done.stdout}{done.stderr}"

    page.goto(window.url + ACCOUNT)
    expect(page.get_by_text(token)).to_have_count(0)
    confirm(page, f"New secret for {name}", "Create new secret")
    renewed = secret(page.locator("pre").first.inner_text())
    assert Http(front.url, f"Bearer {token}").get(ME).status_code == 401
    assert Http(front.url, f"Bearer {renewed}").get(ME).status_code == 200
    page.goto(window.url + ACCOUNT)
    confirm(page, f"Revoke {name}", "Revoke token")
    expect(page.get_by_role("row", name=name)).to_have_count(0)
    assert page.url == window.url + ACCOUNT
    assert Http(front.url, f"Bearer {renewed}").get(ME).status_code == 401
    assert window.troubles == []
    assert token not in front.process.output() and renewed not in front.process.output()


def focus(page, name):
    """Presses Tab until it has the focus, which must be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("""() => {
          const on = document.activeElement, style = getComputedStyle(on);
          return [on.getAttribute("aria-label") || on.labels?.[0]?.textContent.trim() || on.textContent.trim(),
                  on === document.body || style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
        }""")
        assert focused[1], f"the focus on `{focused[0]}` is not seen"
        if focused[0] == name:
            return
    raise AssertionError(f"`{name}` is not reached with Tab")


def test_everything_is_done_with_the_keyboard_alone(window, front):
    page, keys = window.page, window.page.keyboard
    page.goto(window.url + ACCOUNT)
    focus(page, "User name")
    keys.type(window.person.name)
    focus(page, "Password")
    keys.type(window.person.password)
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Account", exact=True)).to_be_visible()
    name = unique("keys")
    focus(page, "Name")
    keys.type(name)
    focus(page, "Read only")
    keys.press("Space")
    focus(page, "Create token")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Access token created")).to_be_visible()
    token = secret(page.locator("pre").first.inner_text())
    assert Http(front.url, f"Bearer {token}").ok("GET", ME)["username"] == window.person.name
    focus(page, "Back to account")
    keys.press("Enter")
    expect(page.get_by_role("row", name=name)).to_contain_text("read-only")
    focus(page, f"Revoke {name}")
    keys.press("Enter")
    expect(page.get_by_role("row", name=name)).to_be_visible()
    focus(page, "Revoke token")
    keys.press("Enter")
    expect(page.get_by_role("row", name=name)).to_have_count(0)
    focus(page, "Sign out")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Sign out")).to_be_visible()
    focus(page, "Sign out")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Signed out")).to_be_visible()
    assert window.troubles == []


def test_everything_but_copying_works_without_javascript(chromium, front):
    person = front.person("plain")
    context = chromium.new_context(
        java_script_enabled=False, extra_http_headers={"Authorization": basic(person.name, person.password)}
    )
    page = context.new_page()
    page.goto(front.url + ACCOUNT)
    name = unique("plain")
    token = make_token(page, name)
    assert page.get_by_role("button", name=re.compile("^Copy")).count() == 0
    assert Http(front.url, f"Bearer {token}").get(ME).status_code == 200
    page.get_by_role("link", name="Back to account").click()
    confirm(page, f"Revoke {name}", "Revoke token")
    expect(page.get_by_role("row", name=name)).to_have_count(0)
    assert Http(front.url, f"Bearer {token}").get(ME).status_code == 401
    context.close()


def test_a_session_that_is_ended_elsewhere_is_over_at_once(window, visit, front):
    sign_in(window)
    here = window.page
    expect(here.get_by_role("row", name="(this session)")).to_have_count(1)
    other = visit("elsewhere", front.url)
    other.person = window.person
    sign_in(other)
    expect(other.page.get_by_role("heading", name="Account", exact=True)).to_be_visible()
    here.reload()
    window.button("Sign out all other sessions").click()
    expect(here.get_by_role("button", name="Sign out all other sessions")).to_have_count(0)
    expect(here.get_by_role("row", name="(this session)")).to_have_count(1)
    other.page.reload()
    expect(other.page.get_by_role("heading", name="Sign in", exact=True)).to_be_visible()

    # An administrator ends it from the proxy's machine.
    shown = front.cli("session", "list", "--user", window.person.name).stdout
    assert window.person.name in shown and "password" in shown
    assert "1 sessions" in front.cli("session", "end", "--user", window.person.name).stdout
    wait_until(lambda: here.reload().url.startswith(f"{front.url}/auth/login"), 10, "the running proxy notices")
