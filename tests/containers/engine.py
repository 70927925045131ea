"""A container engine for the tests, and base images for it where no registry can be reached."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from harness import binary, wait_until

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).parent / "stand-ins"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
# Marks images that only look like those they are named after.
LABEL = "mlflow-auth-proxy.stand-in"
# The stand-in of each image that is not built here, and the stand-in that it starts from.
KINDS = {
    "debian": None,
    "rust": "debian:bookworm-slim",
    "python": "debian:bookworm-slim",
    "postgres": "debian:bookworm-slim",
    "versity/versitygw": "debian:bookworm-slim",
    "quay.io/keycloak/keycloak": "debian:bookworm-slim",
    "caddy": "debian:bookworm-slim",
    "prom/prometheus": "debian:bookworm-slim",
}


def script(name, *arguments):
    """The lines that a script of the project prints."""
    done = subprocess.run([ROOT / "scripts" / name, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


class Engine:
    """`docker` of one daemon."""

    def __init__(self, folder):
        """`folder`: where files for builds are put."""
        self.folder, self.ready = Path(folder), set()
        self.environment = dict(os.environ)
        # Only what Docker's own package contains is needed: no BuildKit.
        self.environment["DOCKER_BUILDKIT"] = "0"

    def run(self, *arguments, check=True, timeout=900, **more):
        """Runs a command of `docker`; its result, with both outputs in `stdout` unless they are asked for."""
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": self.environment} | more
        done = subprocess.run(["docker", *map(str, arguments)], timeout=timeout, **more)
        assert not check or done.returncode == 0, f"docker {arguments}: {done.stdout}"
        return done

    def inspect(self, thing, kind="container"):
        return json.loads(self.run("inspect", "--type", kind, thing).stdout)[0]

    def health(self, container):
        return self.inspect(container)["State"]["Health"]["Status"]

    def wait_healthy(self, container, seconds=120):
        wait_until(lambda: self.health(container) == "healthy", seconds, f"{container} is healthy", every=0.5)

    def base(self, name):
        """Makes sure that an image is there: the real one from here or a registry, or its stand-in."""
        if name in self.ready:
            return
        found = self.run("image", "inspect", name, check=False)
        # Stand-ins are built again, mostly from the cache: they may contain another binary.
        real = found.returncode == 0 and LABEL not in (json.loads(found.stdout)[0]["Config"]["Labels"] or {})
        if not real and self.run("pull", "--quiet", name, check=False).returncode != 0:
            self._stand_in(name)
        self.ready.add(name)

    def _stand_in(self, name):
        repository = name.split("@")[0].rsplit(":", 1)[0]
        below = KINDS[repository]
        if below:
            self.base(below)
        kind = repository.rsplit("/", 1)[-1]
        context = self.folder / kind
        shutil.copytree(STAND_INS / kind, context, dirs_exist_ok=True)
        if fill := getattr(self, f"_fill_{kind}", None):
            fill(context)
        self.run("build", "--label", f"{LABEL}=true", "--tag", name, context)
        shutil.rmtree(context)

    def _fill_debian(self, context):
        if self.run("image", "inspect", "minbase", check=False).returncode != 0:
            self.run("import", script("debian.sh")[0], "minbase")
        certificates = context / "certificates"
        certificates.mkdir()
        for file in CERTIFICATES.glob("*.crt"):
            shutil.copy(file, certificates)

    def _fill_rust(self, context):
        # Without the lines of a debug build, which are most of it.
        subprocess.run(["strip", "-o", context / "prebuilt", binary()], check=True)

    def _fill_versitygw(self, context):
        shutil.copy(script("go-tools.sh", "versitygw")[0], context)

    def _fill_keycloak(self, context):
        script("keycloak.sh", context / "keycloak")
