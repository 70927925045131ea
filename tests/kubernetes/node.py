"""A real node: etcd, the API server, controllers, scheduler, kubelet, containerd and kube-proxy, on this machine.

Every process that is started here is stopped here, by its own process ID, and ends with the process of the tests. Needs root.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from chart import TOOLS, run

NAME = "node"
# Networks that exist only here.
PODS, GATEWAY = "172.31.120.0/24", "172.31.120.1"
ADDRESS = "172.31.121.1"
SERVICES = "10.96.0.0/24"
BRIDGE, LINK = "mapk8spods", "mapk8snode"

PAUSE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
    signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap);
    for (;;) pause();
}
"""

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  # The tests may not be allowed to lower it.
  restrict_oom_score_adj = true
  sandbox_image = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/net.d"
"""

KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {"memory.available": "100Mi"},
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    # Its port is on the node's own address only.
    "authorization": {"mode": "AlwaysAllow"},
    "address": ADDRESS,
    # Changed Secrets and ConfigMaps reach their files after so long.
    "syncFrequency": "5s",
}


def wait_until(true, seconds, what, every=0.3):
    """Waits for a condition and returns its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"not within {seconds} seconds: {what() if callable(what) else what}"
        time.sleep(every)
    return value


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Node:
    def __init__(self):
        # Layers of images and volumes on a disk take minutes.
        self.folder = Path(tempfile.mkdtemp(prefix="mlflow-auth-proxy-node.", dir="/dev/shm"))
        self.processes, self.volumes = {}, 0
        self.kubeconfig = self.folder / "kubeconfig"
        self.environment = dict(os.environ, KUBECONFIG=str(self.kubeconfig), HOME=str(self.folder))
        self.environment["PATH"] += ":/usr/sbin:/sbin:/usr/local/sbin"

    # ---- life

    def start(self):
        ports = {name: free_port() for name in ("etcd", "peers", "api", "manager", "scheduler", "proxy", "metrics", "kubelet", "healthz")}
        self._identities(ports["api"])
        local = "--bind-address=127.0.0.1"
        client, peers = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peers"))
        self._spawn(
            "etcd", "etcd", f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )
        self._spawn(
            "api", TOOLS / "kube-apiserver", f"--etcd-servers={client}", local, f"--secure-port={ports['api']}",
            f"--cert-dir={self.folder}/certs", f"--service-account-key-file={self.folder}/sa.key",
            f"--service-account-signing-key-file={self.folder}/sa.key", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC", f"--token-auth-file={self.folder}/tokens.csv",
            "--allow-privileged=true", "--anonymous-auth=false", "--kubelet-preferred-address-types=InternalIP",
        )
        wait_until(lambda: self.runs("api") and self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok", 180, self.log_of("api"))
        config = f"--kubeconfig={self.kubeconfig}"
        self._spawn(
            "manager", TOOLS / "kube-controller-manager", config, f"--service-account-private-key-file={self.folder}/sa.key",
            "--leader-elect=false", local, f"--secure-port={ports['manager']}",
        )
        self._spawn("scheduler", TOOLS / "kube-scheduler", config, "--leader-elect=false", local, f"--secure-port={ports['scheduler']}")
        self._containerd()
        run("ip", "link", "add", LINK, "type", "bridge", env=self.environment)
        run("ip", "address", "add", f"{ADDRESS}/32", "dev", LINK, env=self.environment)
        run("ip", "link", "set", LINK, "up", env=self.environment)
        kubelet = KUBELET | {
            "port": ports["kubelet"], "healthzPort": ports["healthz"],
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
        }
        (self.folder / "kubelet.yaml").write_text(json.dumps(kubelet))
        self._spawn(
            "kubelet", TOOLS / "kubelet", f"--config={self.folder}/kubelet.yaml", config, f"--hostname-override={NAME}",
            f"--root-dir={self.folder}/kubelet", f"--cert-dir={self.folder}/pki", f"--node-ip={ADDRESS}",
        )
        self._spawn(
            "proxy", TOOLS / "kube-proxy", config, f"--hostname-override={NAME}", f"--cluster-cidr={PODS}", local, "--proxy-mode=iptables",
            # Pods of one bridge would answer each other past the node.
            "--masquerade-all",
            f"--healthz-bind-address=127.0.0.1:{ports['proxy']}", f"--metrics-bind-address=127.0.0.1:{ports['metrics']}",
        )
        ready = ("wait", f"node/{NAME}", "--for=condition=Ready", "--timeout=5s")
        wait_until(lambda: self.runs("kubelet") and self.kubectl(*ready, check=False).returncode == 0, 120, self.log_of("kubelet"))
        self.kubectl("apply", "-f", (TOOLS / "schemas").resolve() / "crds", "--server-side")
        return self

    def stop(self):
        with contextlib.suppress(Exception):
            self.kubectl("delete", "deployments,statefulsets,jobs,cronjobs,pods", "--all", "--all-namespaces", "--grace-period=1", "--timeout=60s", check=False)
        for task in self._ctr("tasks", "list", "--quiet").stdout.split():
            self._ctr("tasks", "delete", "--force", task)
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        run(TOOLS / "kube-proxy", "--cleanup", env=self.environment)
        for link in (BRIDGE, LINK):
            run("ip", "link", "delete", link, env=self.environment)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self.folder}/")), reverse=True):
            run("umount", "--lazy", mount, env=self.environment)
        shutil.rmtree(self.folder, ignore_errors=True)

    def runs(self, name):
        """Fails at once if the process has ended."""
        assert self.processes[name].poll() is None, self.log_of(name)()
        return True

    def log_of(self, name):
        return lambda: f"{name} is ready:\n" + (self.folder / f"{name}.log").read_text()[-3000:]

    def _spawn(self, name, *command):
        log = (self.folder / f"{name}.log").open("w")
        # Nothing outlives the tests.
        argv = ["setpriv", "--pdeathsig", "TERM", *map(str, command)]
        self.processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)

    def _identities(self, port):
        run("openssl", "genrsa", "-out", self.folder / "sa.key", "2048")
        (self.folder / "tokens.csv").write_text("token-of-the-tests,admin,admin,system:masters\n")
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "node",
            "clusters": [{"name": "node", "cluster": {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "admin", "user": {"token": "token-of-the-tests"}}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": "admin"}}],
        }))
        self.kubeconfig.chmod(0o600)

    def _containerd(self):
        (self.folder / "net.d").mkdir()
        (self.folder / "net.d/10-pods.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "pods", "plugins": [
                {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": f"{self.folder}/addresses"}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
                {"type": "firewall"},
            ],
        }))
        (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder))
        self._spawn("containerd", "containerd", "--config", self.folder / "containerd.toml")
        wait_until(lambda: self._ctr("version").returncode == 0, 60, self.log_of("containerd"))

    def _ctr(self, *arguments, **more):
        return run("ctr", "--address", self.folder / "containerd.sock", "--namespace", "k8s.io", *arguments, env=self.environment, **more)

    # ---- what tests use

    def load(self, *images):
        """Copies images from the container engine to the node, with the pause image."""
        build = self.folder / "pause"
        build.mkdir()
        (build / "pause.c").write_text(PAUSE)
        assert run("gcc", "-Os", "-static", "-o", build / "pause", build / "pause.c").returncode == 0
        (build / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        pause = "registry.k8s.io/pause:3.10"
        built = run("docker", "build", "--quiet", "--tag", pause, build, env=dict(os.environ, DOCKER_BUILDKIT="0"))
        assert built.returncode == 0, built.stderr
        archive = self.folder / "images.tar"
        saved = run("docker", "save", "--output", archive, pause, *images)
        assert saved.returncode == 0, saved.stderr
        loaded = self._ctr("images", "import", archive)
        assert loaded.returncode == 0, loaded.stderr
        archive.unlink()

    def kubectl(self, *arguments, check=True, **more):
        result = run(TOOLS / "kubectl", *arguments, env=self.environment, **more)
        assert not check or result.returncode == 0, f"kubectl {arguments}: {result.stdout}{result.stderr}"
        return result

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "--output=json").stdout)

    def apply(self, namespace, *manifests):
        for manifest in manifests:
            self.kubectl("apply", "--namespace", namespace, "-f", "-", input=json.dumps(manifest))

    def helm(self, *arguments, program="helm", check=True, **more):
        result = run(TOOLS / program, *arguments, env=self.environment, **more)
        if check and result.returncode != 0:
            raise AssertionError(f"{program} {arguments}: {result.stdout}{result.stderr}\n{self.events()}")
        return result

    def events(self):
        """What went wrong lately, for the message of a failure."""
        listed = self.kubectl("get", "pods", "--all-namespaces", "--output=wide", check=False).stdout
        events = self.kubectl("get", "events", "--all-namespaces", "--field-selector=type=Warning", check=False).stdout
        return f"{listed}\n{events[-4000:]}"

    def namespace(self, name):
        """Makes a namespace that enforces the Pod Security Standard `restricted`, and warns."""
        labels = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn", "audit")}
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        account = ("get", "serviceaccount", "default", "--namespace", name)
        wait_until(lambda: self.kubectl(*account, check=False).returncode == 0, 60, "the default service account")
        return name

    def volume(self, count=1):
        """Provides volumes that claims of any release bind to."""
        for _ in range(count):
            self.volumes += 1
            path = self.folder / f"volumes/{self.volumes}"
            path.mkdir(parents=True)
            self.apply("default", {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{self.volumes}"},
                "spec": {
                    "capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                    "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}]}]}},
                },
            })
