"""One MLflow and one proxy for the whole session; every test brings its own users and unique names."""

import os
import signal
from pathlib import Path

import pytest

import browser
from harness import PROXIES, ROOT, Mlflow, Proxy, Tls, World
from keycloak import Keycloak, behind_keycloak
from postgres import Postgres


def pytest_configure():
    # A shell starts what runs in its background with Ctrl-C ignored, and everything started from here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def mlflow_server(folder):
    server = Mlflow(folder / "mlflow")
    try:
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture(scope="module", autouse=True)
def big_artifacts_go(folder):
    """Removes the large files that the tests of a module left in MLflow: a machine may have a few GB for the whole run."""
    yield
    for file in (folder / "mlflow" / "artifacts").rglob("*"):
        if file.is_file() and file.stat().st_size >= 1 << 20:
            file.unlink()


@pytest.fixture(scope="session")
def proxy(mlflow_server, folder):
    """The proxy most tests go through: plain HTTP on loopback."""
    yield from running(Proxy(folder / "proxy", mlflow_server.url))


@pytest.fixture(scope="session")
def tls_proxy(mlflow_server, folder):
    """The same over TLS."""
    yield from running(Proxy(folder / "proxy-tls", mlflow_server.url, tls=Tls.make(folder)))


@pytest.fixture(scope="module")
def postgres():
    """The PostgreSQL server of the whole run."""
    server = Postgres()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def keycloak(folder):
    """Takes most of a minute to start, so only when a test asks for it."""
    server = Keycloak(folder)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def front(keycloak, mlflow_server, folder):
    """The proxy whose people sign in at Keycloak."""
    one = behind_keycloak(Proxy(folder / "proxy-keycloak", mlflow_server.url), keycloak)
    keycloak.send_back_to(one.url)
    yield from running(one)


@pytest.fixture
def start_proxy(mlflow_server, tmp_path):
    """Starts further proxies with settings of their own, for tests about one of them."""
    started = []

    def start(settings=None, upstream=None, ready="/readyz"):
        one = Proxy(tmp_path / f"proxy-{len(started)}", upstream or mlflow_server.url, settings=settings)
        started.append(one)
        return one.start(ready)

    yield start
    for one in started:
        one.stop()


def running(one):
    try:
        yield one.start()
    finally:
        code = one.stop()
    assert code == 0, f"the proxy ended with {code}:\n{one.process.output()[-4000:]}"


@pytest.fixture(scope="session")
def admin(proxy):
    return proxy.admin()


@pytest.fixture
def alice(proxy):
    return proxy.person("alice")


@pytest.fixture
def bob(proxy):
    return proxy.person("bob")


@pytest.fixture
def world(alice):
    """Alice's experiment, run, logged model and registered model."""
    return World.make(alice)


@pytest.fixture
def people(proxy):
    """Makes people who hold a permission on an experiment: `people(world, READ, EDIT)`."""

    def make(world, *levels):
        made = []
        for level in levels:
            made.append(proxy.person(level.lower()))
            world.owner.grant(made[-1], "experiment", world.experiment, level)
        return made

    return make


@pytest.fixture(scope="module")
def pictures(request):
    """What pages looked like in this run: below target/screenshots, or where SCREENSHOTS says."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    folder = Path(os.environ.get("SCREENSHOTS", target / "screenshots")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nscreenshots in {folder}")


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as one:
        yield one


@pytest.fixture
def visit(chromium, pictures):
    """Opens windows, and closes them."""
    opened = []

    def open_one(name, url, authorization=None):
        opened.append(browser.Visitor(chromium, name, url, pictures, authorization))
        return opened[-1]

    yield open_one
    for visitor in opened:
        visitor.close()


@pytest.fixture(autouse=True)
def known_fields(request):
    """No request loses a field: MLflow's clients and pages send known ones only. Tests that send others are marked."""
    if request.node.get_closest_marker("odd_requests"):
        yield
        return
    before = {id(one): one.unknown_fields() for one in PROXIES}
    yield
    for one in PROXIES:
        known = before.get(id(one), {})
        lost = {name: count for name, count in one.unknown_fields().items() if count > known.get(name, 0)}
        said = [line for line in one.process.output().splitlines() if "unknown request fields" in line] if lost else []
        assert not lost, "these operations lost request fields: " + ", ".join(lost) + "".join(f"\n{line}" for line in said)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What the proxies said belongs to a failure's report."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for one in PROXIES[-2:]:
            if one.process and one.process.log.exists():
                report.sections.append((f"end of {one.process.log.parent.name}/proxy.log", one.process.output()[-3000:]))


def pytest_collection_modifyitems(items):
    """The search for secrets comes last: then there is most to find."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
