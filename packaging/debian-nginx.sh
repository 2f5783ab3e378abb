#!/usr/bin/env bash
# Unpacks the nginx of another Debian suite into a folder, with its headers, and installs nothing.
#
#   packaging/debian-nginx.sh SUITE FOLDER
#
# FOLDER/nginx is then an nginx that runs here, by the libraries of its own suite, and FOLDER/src
# and FOLDER/objs are NGINX_SOURCE_DIR and NGINX_BUILD_DIR of the module for it.
set -euo pipefail

suite=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
[ ! -e "$folder/complete" ] || exit 0
rm -rf "$folder"/*

apt=$folder/apt
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: > "$apt/status"
# The mirror that this machine uses already.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror $suite main" > "$apt/sources.list"
options=(-qq -o Dir::State="$apt/state" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/sources.list"
    -o Dir::Etc::sourceparts=- -o APT::Install-Recommends=false -o APT::Sandbox::User=root)
apt-get "${options[@]}" update

# nginx with all it needs, and the headers alone of nginx-dev.
apt-get "${options[@]}" install -y --download-only nginx > /dev/null
(cd "$apt/cache/archives" && apt-get "${options[@]}" download nginx-dev)
root=$folder/root
mkdir -p "$root"
# As merged /usr, which newer suites take for granted.
mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
for dir in lib lib64 bin sbin; do ln -s "usr/$dir" "$root/$dir"; done
for package in "$apt/cache/archives"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
done

libraries=$root/usr/lib/x86_64-linux-gnu
cp "$root/usr/sbin/nginx" "$folder/nginx"
patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath \
    --set-rpath "$libraries" "$folder/nginx"
"$folder/nginx" -v

# The module is for exactly this nginx: configured as it was.
cp -r "$root/usr/share/nginx/src" "$folder/src"
cd "$folder/src"
bash -euc '. ./conf_flags; ./configure "${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir="$1"' \
    configure "$folder/objs" > "$folder/configure.log"
rm -rf "$apt"
touch "$folder/complete"
