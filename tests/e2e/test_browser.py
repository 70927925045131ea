"""MLflow's own web UI through the proxy in a real browser, as an administrator and as somebody who may read a little.

Every page leaves a picture.
"""

import json
import re
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from conftest import running
from harness import Proxy, basic, new_password, unique

# What the same pages of a bare MLflow 3.17.2 show too, sometimes: both depend on the moment at which a page is drawn.
BARE = {
    # Chromium's word for charts that change their size while they are measured.
    "console null ResizeObserver loop completed with undelivered notifications.",
    # The page that compares runs, drawn before their metrics are there.
    "console TypeError: Cannot read properties of undefined (reading 'includes')",
}
# Asked by the form for grants. MLflow without workspaces answers so; the form then leaves them out.
NO_WORKSPACES = {"503 GET /ajax-api/3.0/mlflow/workspaces"}


@pytest.fixture(scope="module")
def front(mlflow_server, tmp_path_factory):
    """A proxy of its own: its lists of users and roles hold nobody else's."""
    yield from running(Proxy(tmp_path_factory.mktemp("browser") / "proxy", mlflow_server.url))


@pytest.fixture(scope="module")
def gallery(front):
    made = json.loads(front.person("owner").python("gallery.py", unique("g")).splitlines()[-1])
    return SimpleNamespace(**{fate: SimpleNamespace(**things) for fate, things in made.items()})


@pytest.fixture(scope="module")
def reader(front, gallery):
    """May read what is shared, and nothing else."""
    person, shared = front.person("reader"), gallery.shared
    give(front.admin(), person, shared)
    return person


def give(giver, person, things):
    for kind, key in (("experiment", things.experiment), ("registered_model", things.model), ("prompt", things.prompt)):
        giver.grant(person, kind, key, "READ")


@pytest.fixture
def as_person(visit, front):
    return lambda role, person: visit(role, front.url, basic(person.name, person.password))


def check_troubles(visitor, *accepted):
    """Nothing went wrong but what is known, and has a reason above."""
    unexpected = set(visitor.troubles).difference(BARE, *accepted)
    assert not unexpected, f"{visitor.name}: {sorted(unexpected)}"


def tour(visitor, things):
    """Every kind of page about the things somebody may read. Each must show what is in it."""
    go, sees, picture, page = visitor.go, visitor.sees, visitor.picture, visitor.page
    experiment, run = f"/experiments/{things.experiment}", f"/experiments/{things.experiment}/runs/{things.runs[0]}"
    names = [f"{things.fate}-depth-{depth}" for depth in (3, 5)]

    go("/experiments")
    sees(things.experiment_name)
    picture("experiments")

    go(f"{experiment}/runs")
    sees(*names)
    picture("runs")
    go(f"{experiment}/runs?compareRunsMode=CHART")
    sees("loss")
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    picture("charts-of-runs")

    go(run)
    sees(names[0], "Parameters (1)", "depth", "Metrics (1)", "loss", run.rpartition("/")[2])
    expect(page.get_by_role("row", name="depth 3")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(r"loss 0\.14"))).to_be_visible()
    picture("run")
    go(f"{run}/model-metrics")
    sees("loss")
    expect(page.locator(".js-plotly-plot .scatterlayer .point")).to_have_count(5)
    picture("run-charts")
    go(f"{run}/artifacts/notes.txt")
    sees("notes.txt", f"What {things.fate} notes say")
    picture("run-artifacts")
    go(f"/compare-runs?runs={json.dumps(things.runs)}&experiments={json.dumps([things.experiment])}")
    sees("Comparing 2 Runs", *names)
    picture("compare-runs")

    go(f"{experiment}/traces")
    for number in range(3):
        sees(f"{things.fate} question {number}", f"{things.fate} answer {number}")
    picture("traces")
    visitor.button("Got it").click()  # an introduction lies over the page
    page.get_by_text(f"{things.fate} question 1").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("answer")
    picture("trace")
    page.keyboard.press("Escape")

    go("/models")
    expect(visitor.links("/models/").filter(has_text=things.model)).to_be_visible()
    picture("models")
    page.keyboard.press("Escape")
    go(f"/models/{things.model}")
    sees(things.model, "Version 1")
    picture("model")
    go(f"/models/{things.model}/versions/1")
    sees("Version 1", "Source Run", names[0])
    picture("model-version")

    go("/prompts")
    expect(visitor.links("/prompts/").filter(has_text=things.prompt)).to_be_visible()
    picture("prompts")
    go(f"/prompts/{things.prompt}")
    sees("Viewing version 1", f"Say {{{{word}}}} to the {things.fate}")
    picture("prompt")


# ---- looking


def test_an_administrator_sees_everything(as_person, front, gallery):
    visitor = as_person("admin", front.admin())
    tour(visitor, gallery.hidden)
    visitor.go("/experiments")
    visitor.sees(gallery.shared.experiment_name, gallery.hidden.experiment_name)
    check_troubles(visitor)


def test_a_limited_user_sees_what_is_granted_and_nothing_else(as_person, reader, gallery):
    visitor, shared = as_person("reader", reader), gallery.shared
    tour(visitor, shared)
    for path, name in (("/experiments", shared.experiment_name), ("/models", shared.model), ("/prompts", shared.prompt)):
        visitor.go(path)
        expect(visitor.links(f"{path}/")).to_have_text([name])
        visitor.settle()
    check_troubles(visitor)


def test_what_is_hidden_is_refused_in_words(as_person, reader, gallery):
    visitor, hidden = as_person("reader", reader), gallery.hidden
    visitor.go(f"/models/{hidden.model}")
    visitor.sees(f"READ on registered model `{hidden.model}` is required")
    visitor.picture("hidden-model")
    for page in ("runs", f"runs/{hidden.runs[0]}", "traces"):
        visitor.go(f"/experiments/{hidden.experiment}/{page}")
        visitor.settle()
        visitor.does_not_see(hidden.experiment_name, "hidden-depth-3", "hidden question 1")
    visitor.picture("hidden-experiment")
    # The window is still good for what is allowed.
    visitor.go("/experiments")
    visitor.sees(gallery.shared.experiment_name)


def test_an_edit_without_permission_is_refused_politely(as_person, reader, gallery):
    visitor, shared = as_person("reader", reader), gallery.shared
    page = visitor.page
    visitor.go(f"/experiments/{shared.experiment}/runs/{shared.runs[0]}")
    visitor.button("Edit description").click()
    page.locator("main textarea").first.fill("reader was here")
    visitor.button("Save").click()
    visitor.sees(f"Permission denied. EDIT on experiment `{shared.experiment}` is required.")
    visitor.picture("refused-edit")
    check_troubles(visitor, {"403 POST /ajax-api/2.0/mlflow/runs/set-tag"})
    # Nothing was lost, and nothing is stuck.
    visitor.button("Cancel").click()
    visitor.does_not_see("reader was here")
    page.get_by_role("tab", name="Artifacts").click()
    visitor.sees("notes.txt")


# ---- accounts


def test_the_account_page(as_person, reader, gallery):
    visitor, shared = as_person("reader", reader), gallery.shared
    visitor.go("/account")
    visitor.sees(f"Logged in as {reader.name}", "Change password", "No roles")
    visitor.picture("account")
    visitor.page.get_by_role("tab", name="Permissions").click()
    visitor.sees(shared.model, shared.prompt)
    visitor.picture("account-permissions")
    check_troubles(visitor)


def test_an_administrator_makes_a_user_a_role_and_a_grant(as_person, front, gallery):
    admin = front.admin()
    visitor = as_person("admin", admin)
    page, dialog = visitor.page, visitor.page.get_by_role("dialog")
    user, password, role = unique("made"), new_password(), unique("role")
    experiment = gallery.hidden

    visitor.go("/admin")
    visitor.button("Create User").click()
    page.get_by_placeholder("Enter username").fill(user)
    page.get_by_placeholder("Enter password").fill(password)
    visitor.picture("admin-create-user")
    visitor.button("Create user").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name=user, exact=True)).to_be_visible()
    visitor.picture("admin-users")

    page.get_by_role("tab", name="Roles").click()
    visitor.button("Create Role").click()
    page.get_by_placeholder("Enter role name").fill(role)
    visitor.button("Permissions", dialog).click()
    choose(page, dialog.locator("[id$=resource-type]"), "Registered model")
    dialog.get_by_role("radio", name="All registered models").click()
    visitor.button("Add", dialog).click()
    visitor.button("Assign users", dialog).click()
    dialog.get_by_role("combobox", name="Users, multiselectable").click()
    page.get_by_role("searchbox").fill(user)
    page.get_by_role("option", name=user).click()
    page.keyboard.press("Escape")
    visitor.picture("admin-create-role")
    visitor.button("Create role", dialog).click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("link", name=role, exact=True)).to_be_visible()
    visitor.picture("admin-roles")

    visitor.go(f"/admin/users/{user}")
    expect(page.get_by_role("link", name=role, exact=True)).to_be_visible()
    visitor.button("Edit access").click()
    dialog.get_by_role("combobox", name="Experiment, no option selected").click()
    page.get_by_role("searchbox").fill(experiment.experiment_name)
    page.get_by_role("option", name=experiment.experiment_name).click()
    choose(page, dialog.locator("[id$=level]"), "EDIT")
    visitor.button("Add", dialog).click()
    visitor.button("Review changes", dialog).click()
    expect(dialog).to_contain_text(f"experiment:{experiment.experiment} → EDIT")
    visitor.picture("admin-review-grant")
    visitor.button("Apply changes", dialog).click()
    expect(dialog).to_have_count(0)
    page.get_by_role("tab", name="Permissions").click()
    visitor.sees("EDIT")
    visitor.picture("admin-user")
    check_troubles(visitor, NO_WORKSPACES)

    # It is all there, and it counts.
    made = SimpleNamespace(name=user, password=password)
    found = admin.ok("GET", "/api/2.0/mlflow/users/get", params={"username": user})["user"]
    assert (found["username"], found["is_admin"]) == (user, False)
    roles = {one["name"]: one for one in admin.ok("GET", "/api/3.0/mlflow/roles/list")["roles"]}
    permissions = admin.ok("GET", "/api/3.0/mlflow/roles/get", params={"role_id": roles[role]["id"]})["role"]["permissions"]
    assert [(one["resource_type"], one["resource_pattern"], one["permission"]) for one in permissions] == [
        ("registered_model", "*", "READ")
    ]
    visitor = as_person("made", made)
    visitor.go("/experiments")
    expect(visitor.links("/experiments/")).to_have_text([experiment.experiment_name])
    visitor.go("/models")
    visitor.sees(gallery.shared.model, gallery.hidden.model)
    visitor.picture("models")
    check_troubles(visitor)


def choose(page, box, option):
    box.click()
    page.get_by_role("option", name=option, exact=True).click()


# ---- signing in


def test_somebody_unknown_is_asked_for_a_password_by_the_page_alone(visit, front):
    visitor = visit("nobody", front.url)
    visitor.watch_for_questions()
    answer = visitor.page.goto(front.url)
    assert (answer.status, visitor.questions) == (401, ["/"])
    assert answer.headers["www-authenticate"].startswith("Basic ")
    # What scripts of a page ask for is refused without a question, whatever the page.
    visitor.page.goto(f"{front.url}/health")
    for path in ("/ajax-api/2.0/mlflow/users/current", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", "/graphql"):
        # The body is read, too: of an answer that is not stored, Chromium reads on only then.
        read = "async path => { const answer = await fetch(path); await answer.text(); return answer.status; }"
        assert visitor.page.evaluate(read, path) == 401
    assert visitor.questions == ["/"]
    visitor.picture("nobody")


def test_signing_in_over_tls_is_asked_once(visit, tls_proxy, gallery):
    reader = tls_proxy.person("reader")
    give(tls_proxy.admin(), reader, gallery.shared)
    visitor = visit("tls", tls_proxy.url)
    visitor.watch_for_questions(reader.name, reader.password)
    visitor.go("/experiments")
    expect(visitor.links("/experiments/")).to_have_text([gallery.shared.experiment_name])
    visitor.sees(reader.name)
    visitor.picture("experiments")
    visitor.go(f"/experiments/{gallery.shared.experiment}/runs/{gallery.shared.runs[0]}/artifacts/notes.txt")
    visitor.sees("What shared notes say")
    assert visitor.questions == ["/"]
    # A password that is no longer good: the open page is refused, and nothing pops up over it.
    change = {"username": reader.name, "password": new_password()}
    tls_proxy.admin().ok("PATCH", "/api/2.0/mlflow/users/update-password", change)
    with visitor.page.expect_response(re.compile("/registered-models/search")) as answer:
        visitor.go("/models")
    assert answer.value.status == 401
    assert visitor.questions == ["/"]
    visitor.picture("no-longer-signed-in")
