import pytest

from engine import ROOT, Engine

# What the Dockerfile may read.
SOURCES = ("Dockerfile", ".dockerignore", "Cargo.toml", "Cargo.lock", "LICENSE", "src", "templates", "migrations")
IMAGE = "mlflow-auth-proxy:latest"


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine"))
    assert engine.run("version", check=False).returncode == 0, "no container engine; run `make test-image`, which starts one"
    return engine


@pytest.fixture(scope="session")
def image(engine):
    """The product's image, from the Dockerfile as it is."""
    for base in ("rust:1.95-bookworm", "debian:bookworm-slim"):
        assert base in (ROOT / "Dockerfile").read_text()
        engine.base(base)
    engine.run("build", "--tag", IMAGE, ROOT)
    return IMAGE
