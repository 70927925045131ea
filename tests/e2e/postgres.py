"""A PostgreSQL server of the tests' own, and proxies that share a database on it."""

import contextlib
import copy
import os
import shlex
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from harness import ROOT, Proxy, free_port, unique, wait_until

SCRIPT = ROOT / "scripts" / "postgres.sh"


class Postgres:
    """The server of the whole test run, or one that ends with this object: it lives as long as its standard input."""

    def __init__(self, apart=False):
        """`apart`: a server of its own, which a test may stop."""
        self.child, self.paused, self._data = None, [], None
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

    def serve_tls(self, tls):
        """Connections may be encrypted with this certificate from now on."""
        (folder,) = self.sql("postgres", "SHOW data_directory")
        for name, file in (("server.crt", tls.cert), ("server.key", tls.key)):
            own = Path(folder) / name
            own.write_bytes(file.read_bytes())
            own.chmod(0o600)
            if os.getuid() == 0:
                shutil.chown(own, "postgres", "postgres")
        self.sql("postgres", "ALTER SYSTEM SET ssl = on")
        self.sql("postgres", "SELECT pg_reload_conf()")
        wait_until(lambda: self.sql("postgres", "SHOW ssl") == ["on"], 10, "the server uses TLS")

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

    # ---- a server that a test may stop and replace

    def run(self, program, *arguments):
        """One of its programs, as the user who may run the server."""
        argv = [f"{self.programs}/{program}", *map(str, arguments)]
        if os.geteuid() == 0:
            argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "HOME=/", *argv]
        # Its server would otherwise keep the pipes open.
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60)
        assert done.returncode == 0, argv

    @property
    def data(self):
        """Its data folder."""
        if not self._data:
            command = Path(f"/proc/{self.processes()[0]}/cmdline").read_text().split("\0")
            self._data = Path(command[command.index("-D") + 1])
        return self._data

    def shut_down(self, mode="fast"):
        self.run("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def start_again(self):
        options = shlex.split((self.data / "postmaster.opts").read_text())[1:]
        self.run("pg_ctl", "-D", self.data, "-l", self.data / "log", "-w", "-o", shlex.join(options), "start")

    def standby(self):
        """Another server that follows this one; commits wait for it from now on, so that it lacks none that was acknowledged."""
        port = self.url.rsplit(":", 1)[1]
        follower = copy.copy(self)
        follower.child, follower.paused, follower._data = None, [], self.data.parent / "standby"
        own = free_port()
        follower.url = f"postgres://postgres@127.0.0.1:{own}"
        self.run("pg_basebackup", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-D", follower.data, "-R", "-X", "stream", "-c", "fast",
                 "--no-sync")
        options = f"-p {own} -c listen_addresses=127.0.0.1 -k '{self.data.parent}' -c fsync=off -c max_connections=500"
        self.run("pg_ctl", "-D", follower.data, "-l", follower.data / "log", "-w", "-o", options, "start")
        follows = lambda: self.sql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == ["1"]
        wait_until(follows, 30, "the standby follows")
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("postgres", "SELECT pg_reload_conf()")
        wait_until(lambda: self.sql("postgres", "SELECT sync_state FROM pg_stat_replication") == ["sync"], 30, "commits wait for it")
        return follower

    def promote(self):
        self.run("pg_ctl", "-D", self.data, "-w", "promote")

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

    def role_with_password(self, name, password):
        """Makes the role, or gives it another password: databases of other tests may belong to it."""
        if not self.sql("postgres", f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):
            self.sql("postgres", f"CREATE ROLE {name} LOGIN")
        self.sql("postgres", f"ALTER ROLE {name} PASSWORD '{password}'")

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
