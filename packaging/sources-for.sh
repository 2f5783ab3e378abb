#!/bin/sh
# Finds the sources of an nginx binary and configures them as it was. Compiles nothing.
#
#   packaging/sources-for.sh BINARY FOLDER
#
# FOLDER/src and FOLDER/objs are NGINX_SOURCE_DIR and NGINX_BUILD_DIR to build the module for
# BINARY, and FOLDER/complete marks them as complete. The sources are those of NGINX_SOURCE_DIR if
# it is set, otherwise those of the same version in: /usr/share/nginx/src (Debian's nginx-dev),
# /usr/src (nginx-mod-devel of Fedora and RHEL), Debian's source package, and the crate nginx-src.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/nginx-sources.sh"

binary=$(command -v "$1") || fail "no nginx binary $1: name it by FOR=PATH."
mkdir -p "$2"
folder=$(cd "$2" && pwd)
identity="$binary $(cksum < "$binary") ${NGINX_SOURCE_DIR:-}"
[ ! -f "$folder/complete" ] || [ "$identity" != "$(cat "$folder/complete")" ] || exit 0
rm -rf "${folder:?}"/*

check_tools "$here/.." || exit 1
named=$(version_of_binary "$binary")
[ -n "$named" ] || fail "$binary -v prints no version: it is no nginx."
version=${named#nginx/}
signature=$(signature_of_binary "$binary")
[ -n "$signature" ] || fail "$binary has no signature of modules: it is no nginx, or was built \
without dynamic modules."

# Sets `found` to folder $1 if it has sources of the version. A fork, such as OpenResty or Angie,
# has patches: its sources must be named.
found=
take() {
    [ -n "$found" ] || [ "$(version_of_sources "$1")" != "$version" ] || found=$1
}

# The package that owns the binary, as package=version of its source. Nothing without dpkg.
owner() {
    package=$(dpkg-query -S "$binary" 2> /dev/null | sed -n '1s/[:,].*//p')
    [ -z "$package" ] || dpkg-query -W -f '${source:Package}=${source:Version}' "$package"
}

find_debian() {
    owner=$(owner)
    [ -n "$owner" ] || return 0
    candidate=$(apt-cache madison nginx-dev 2> /dev/null | cut -d '|' -f 2 | tr -d ' ' \
        | grep -Fx "${owner#*=}" || true)
    if [ -n "$candidate" ] && [ "${owner%%=*}" = nginx ]; then
        "$here/install.sh" nginx-dev && take /usr/share/nginx/src
    elif apt-get indextargets --format '$(URI)' 'Created-By: Sources' 2> /dev/null | grep -q .; then
        command -v dpkg-source > /dev/null \
            || fail "no dpkg-source, which unpacks Debian's source packages: apt-get install dpkg-dev"
        mkdir "$folder/debian"
        if (cd "$folder/debian" && apt-get source -qq "$owner") > "$folder/source.log" 2>&1; then
            take "$(echo "$folder/debian"/*/)"
        fi
    fi
}

# The crate has the sources in releases of its own numbers.
take_crate() {
    [ -n "$found" ] || take "$(crate_sources "$1" "$folder/crate")"
}

if [ -n "${NGINX_SOURCE_DIR:-}" ]; then
    [ -d "$NGINX_SOURCE_DIR" ] || fail "NGINX_SOURCE_DIR=$NGINX_SOURCE_DIR: no such folder."
    found=$(cd "$NGINX_SOURCE_DIR" && pwd)
    theirs=$(version_of_sources "$found")
    [ -n "$theirs" ] || fail "NGINX_SOURCE_DIR=$found has no sources of nginx: no src/core/nginx.h."
    [ "$named" != "nginx/$version" ] || [ "$theirs" = "$version" ] \
        || fail "$binary is nginx $version, and NGINX_SOURCE_DIR=$found has $theirs: name the \
sources of $version."
elif [ "$named" = "nginx/$version" ]; then
    for place in /usr/share/nginx/src "/usr/src/nginx-$version" "/usr/src/nginx-$version"-*; do
        take "$place"
    done
    [ -n "$found" ] || find_debian
    case $version in
        1.28.0) take_crate =1.28.1 ;;
        1.28.1) take_crate =1.28.3 ;;
        1.28.2) take_crate =1.28.4 ;;
        1.28.3) take_crate =1.28.5 ;;
    esac
    take_crate "~${version%.*}"
fi
[ -n "$found" ] || fail "no sources of $named, which $binary is: unpack them (for nginx, \
nginx-$version.tar.gz of nginx.org; apt-get install nginx-dev or dnf install nginx-mod-devel has \
those of the distribution's) and name them by NGINX_SOURCE_DIR=PATH."
check_fork "$found"

# The folder is configured in a copy, unless it is Debian's, which knows the options of its binary.
arguments() {
    "$binary" -V 2>&1 | sed -n 's/^configure arguments: //p'
}
eval "set -- $(arguments)"
for argument; do
    shift
    case $argument in
        # Other modules, and libraries of the machine that built the binary.
        --add-module=* | --add-dynamic-module=* | --with-*=dynamic | --builddir=*) continue ;;
        --with-openssl=* | --with-pcre=* | --with-zlib=* | --with-libatomic=*) continue ;;
        --with-*perl* | --with-*geoip* | --with-*xslt* | --with-*image_filter*) continue ;;
        --with-google_perftools_module) continue ;;
    esac
    set -- "$@" "$argument"
done
case " $* " in
    *' --with-http_ssl_module '*) ;;
    *) fail "$binary was built without --with-http_ssl_module, which the module needs." ;;
esac

if [ -f "$found/conf_flags" ]; then
    ln -s "$found" "$folder/src"
    command -v bash > /dev/null || fail "no bash, which Debian's sources need: apt-get install bash"
    configured() {
        (cd "$found" && bash -euc '. ./conf_flags; objs=$1; shift
            ./configure "${NGX_CONF_FLAGS[@]}" "$@" --builddir="$objs"' configure "$folder/objs" "$@")
    }
    set -- --with-cc-opt=-fPIC
else
    cp -R "$found" "$folder/src"
    rm -rf "$folder/src/objs"
    configured() {
        (cd "$folder/src" && if [ -f configure ]; then script=./configure; else script=auto/configure; fi
            sh "$script" "$@" --builddir="$folder/objs")
    }
fi
echo "configuring the sources of $named ($found)"
if ! configured "$@" > "$folder/configure.log" 2>&1; then
    # Flags of the binary's compiler may be unknown to this one.
    for argument; do
        shift
        case $argument in --with-cc-opt=* | --with-ld-opt=* | --with-cc=*) continue ;; esac
        set -- "$@" "$argument"
    done
    configured "$@" --with-cc-opt=-fPIC > "$folder/configure.log" 2>&1 || {
        reason=$(grep -m 1 -i 'error' "$folder/configure.log" || true)
        case $reason in
            *PCRE*) hint=$(install_hint pcre2.h) ;;
            *zlib*) hint=$(install_hint zlib.h) ;;
            *OpenSSL*) hint=$(install_hint openssl/ssl.h) ;;
            *) hint="see $folder/configure.log" ;;
        esac
        fail "the sources of $named cannot be configured as $binary was: ${reason#*error: } $hint"
    }
fi

source=$(cd "$folder/src" && pwd -P)
ours=$(signature_of_sources "$source" "$folder/objs") || exit 1
[ "$ours" = "$signature" ] || fail "$binary demands modules with the signature $signature, and \
its sources configured here give $ours: they differ in $(differing_features "$source" "$ours" \
"$signature"). Name the sources that it was built from by NGINX_SOURCE_DIR=PATH."
echo "$identity" > "$folder/complete"
