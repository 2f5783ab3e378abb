#!/usr/bin/env bash
# Unpacks packages of another Debian suite into a folder. Installs nothing.
#
#   packaging/debian-unpack.sh SUITE FOLDER "PACKAGE..." ["PACKAGE..."]
#
# FOLDER becomes a root file system with the first packages and their dependencies, and with the
# second packages without dependencies. debian.sh has the function that makes a program of it run.
# ARCHITECTURE in the environment names another than that of this machine.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

suite=$1 with_needs=$3 alone=${4:-}
mkdir -p "$2"
root=$(cd "$2" && pwd)

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: > "$apt/status"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $(mirror) $suite main" > "$apt/sources.list"
options=(-qq -o Dir::State="$apt/state" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/sources.list"
    -o Dir::Etc::sourceparts=- -o APT::Install-Recommends=false -o APT::Sandbox::User=root)
[ -z "${ARCHITECTURE:-}" ] \
    || options+=(-o "APT::Architecture=$ARCHITECTURE" -o "APT::Architectures::=$ARCHITECTURE")
apt-get "${options[@]}" update
# Unquoted: one word for each package.
apt-get "${options[@]}" install -y --download-only $with_needs > /dev/null
[ -z "$alone" ] || (cd "$apt/cache/archives" && apt-get "${options[@]}" download $alone)

# Newer suites expect a merged /usr.
mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
for dir in lib lib64 bin sbin; do ln -s "usr/$dir" "$root/$dir"; done
for package in "$apt/cache/archives"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
done
