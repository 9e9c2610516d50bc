#!/usr/bin/env bash
# Makes kube-apiserver, kube-controller-manager and kube-scheduler 1.20.2 for tests out of Debian's source
# package, once per machine, and prints the folder that holds them. Changes nothing of the system and needs
# no root: compiler and sources are unpacked beside the result and removed. About 4 minutes on two cores.
set -euo pipefail
version=1.20.2
programs=(kube-apiserver kube-controller-manager kube-scheduler)
dest=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/lite-llm/control-plane-$version}

complete_in() { local p; for p in "${programs[@]}"; do [[ -x $1/$p ]] || return 1; done; }
give_up() { echo "$1: install release binaries and set KUBEBUILDER_ASSETS to their folder" >&2; exit 1; }

for folder in "${KUBEBUILDER_ASSETS:-}" "$dest"; do
  if [[ -n $folder ]] && complete_in "$folder"; then echo "$folder"; exit; fi
done
for tool in apt-get dpkg flock; do
  command -v "$tool" >/dev/null || give_up "Kubernetes' control plane cannot be built without Debian's $tool"
done

mkdir -p "$(dirname "$dest")"
exec 9>"$dest.lock"
flock 9
if complete_in "$dest"; then echo "$dest"; exit; fi # another run made it while this one waited
rm -rf "$dest".partial.* # of a run that was killed: the lock says that none is at work
work=$(mktemp -d "$dest.partial.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "building Kubernetes' control plane $version for tests, once per machine: about 4 minutes on 2 cores" >&2

# Lists of our own, made from the machine's and asking for sources too, so that the machine's stay as they are.
mkdir -p "$work"/{lists,state/lists/partial,cache/archives/partial,go,src}
touch "$work/state/status"
for list in /etc/apt/sources.list.d/*.sources; do
  [[ -e $list ]] && sed 's/^Types:.*/Types: deb deb-src/' "$list" >"$work/lists/${list##*/}"
done
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [[ -e $list ]] && sed -n 's/^deb \(.*\)/deb \1\ndeb-src \1/p' "$list" >"$work/lists/${list##*/}.list"
done
apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/lists"
  -o "Dir::State=$work/state" -o "Dir::State::status=$work/state/status" -o "Dir::Cache=$work/cache"
  -o APT::Sandbox::User=)
cd "$work"
{
  "${apt[@]}" update
  "${apt[@]}" download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
  "${apt[@]}" source --download-only kubernetes
} >&2 || give_up "apt has neither Go 1.19 nor the sources of Kubernetes $version, as Debian bookworm has"
tarball=$(echo kubernetes_*.orig.tar.gz)
[[ $tarball == *"$version".orig.tar.gz ]] || give_up "apt has $tarball and not Kubernetes $version"
for package in ./*.deb; do dpkg -x "$package" go; done
tar xzf "$tarball" -C src --strip-components=1

# The vendored reflect2 1.0.1 crashes when compiled by Go 1.18 or later; Debian's 1.0.2 does not.
reflect2=src/vendor/github.com/modern-go/reflect2
rm -f "$reflect2"/*.{go,s}
cp -L go/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect2"
rm -f "$reflect2"/*_test.go

mkdir -p path/src/k8s.io home
ln -s "$work/src" path/src/k8s.io/kubernetes
export GOROOT=$work/go/usr/lib/go-1.19 GOPATH=$work/path GOCACHE=$work/gocache HOME=$work/home
# GOGC: a fifth less processor time for the memory of a few hundred megabytes per compiler.
export GO111MODULE=off GOENV=off GOFLAGS= CGO_ENABLED=0 GOGC=400
unset GOOS GOARCH
go=$GOROOT/bin/go
cd path/src/k8s.io/kubernetes

# The release tarball holds all generated code but the OpenAPI definitions of Kubernetes' own types. Its list of
# known rule violations tells whether the same packages were found as by its makefiles, which take minutes longer.
"$go" build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' cmd pkg plugin staging/src/k8s.io |
  grep -v -e /code-generator/ -e /sample-apiserver/ -e /testdata/ -e /zz_generated | xargs -n1 dirname | sort -u |
  sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#; t' -e 's#^#k8s.io/kubernetes/#' | paste -sd,)
"$work/openapi-gen" -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"
cmp "$work/violations" api/api-rules/violation_exceptions.list

flags="-s -w"
for package in component-base/version client-go/pkg/version; do
  for pair in "gitVersion=v$version" gitMajor=1 gitMinor=20 gitTreeState=archive; do
    flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$package.$pair"
  done
done
# providerless: without the clouds' volumes and load balancers, a third of the code.
mkdir "$work/built"
"$go" build -tags providerless -ldflags "$flags" -o "$work/built" "${programs[@]/#/./cmd/}"
[[ $("$work/built/kube-apiserver" --version) == "Kubernetes v$version" ]]

rm -rf "$dest"
mv "$work/built" "$dest"
echo "$dest"
