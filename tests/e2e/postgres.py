"""A PostgreSQL server of the tests' own, and proxies that share a database on it."""

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from harness import ROOT, Proxy, unique

SCRIPT = ROOT / "scripts" / "postgres.sh"


class Postgres:
    """The server of the whole test run, or one that ends with this object: it lives as long as its standard input."""

    def __init__(self, apart=False):
        """`apart`: a server of its own, which a test may stop."""
        self.child, self.paused = None, []
        self.url = None if apart else os.environ.get("MLFLOW_AUTH_PROXY_TEST_POSTGRES")
        self.programs = subprocess.run([SCRIPT], check=True, capture_output=True, text=True).stdout.strip()
        if not self.url:
            self.child = subprocess.Popen([SCRIPT, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.url = self.child.stdout.readline().strip()
        assert self.url.startswith("postgres://"), "scripts/postgres.sh did not start a server; it has said why"

    def processes(self):
        """The server and its sessions."""
        port = self.url.rsplit(":", 1)[1]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f" -p {port} " in command:
                    children = [Path(f"/proc/{entry.name}/task/{entry.name}/children")]
                    return [int(entry.name), *map(int, children[0].read_text().split())]
        raise AssertionError("the server is not there")

    def pause(self):
        """No answer from now on, as behind a broken network."""
        self.paused = self.processes()
        for process in self.paused:
            os.kill(process, signal.SIGSTOP)

    def resume(self):
        for process in self.paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        self.paused = []

    def stop(self):
        self.resume()
        if self.child:
            self.child.stdin.close()
            self.child.wait(30)

    def database(self):
        """The URL of a new, empty database."""
        name = unique("proxy").replace("-", "_")
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        return f"{self.url}/{name}"

    def sql(self, database, statement):
        """Runs one statement as the superuser; its rows, tab-separated."""
        argv = [f"{self.programs}/psql", "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", f"{self.url}/{database}", "-c", statement]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


class Replica(Proxy):
    """A proxy whose store is a database that others share."""

    def __init__(self, folder, upstream, url, settings=None):
        super().__init__(folder, upstream, settings={"STORE__URL": url} | (settings or {}))


def start_together(replicas):
    """Starts all at once; returns when every one is ready."""
    threads = [threading.Thread(target=one.start) for one in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in replicas:
        one.process.check_alive()
        assert one.probe("/readyz").ok, one.process.output()
    return replicas
