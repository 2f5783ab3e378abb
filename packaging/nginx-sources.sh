# Functions about nginx's sources, binaries and the tools of a build, for POSIX shells.
# Read by `.`, not run. They need no package manager. Those in parentheses run in a shell of their
# own, so that they set no variable of the script.

# Ends the script with one line.
fail() {
    echo "$*" >&2
    exit 1
}

# Prints how to install $1 under apt, dnf and apk.
install_hint() (
    case $1 in
        cc) packages='gcc libc6-dev;gcc glibc-devel;gcc musl-dev' ;;
        make) packages='make;make;make' ;;
        cargo) packages='cargo rustc;cargo;cargo' ;;
        libclang) packages='libclang-dev;clang-devel;clang-dev' ;;
        openssl/*) packages='libssl-dev;openssl-devel;openssl-dev' ;;
        pcre2.h) packages='libpcre2-dev;pcre2-devel;pcre2-dev' ;;
        pcre.h) packages='libpcre3-dev;pcre-devel;pcre-dev' ;;
        zlib.h) packages='zlib1g-dev;zlib-devel;zlib-dev' ;;
        stdio.h) packages='libc6-dev;glibc-devel;musl-dev' ;;
        *)
            echo 'install the package that has it'
            exit 0
            ;;
    esac
    echo "$packages" | sed 's/\(.*\);\(.*\);\(.*\)/apt-get install \1, dnf install \2, or apk add \3/'
)

# Prints the lines of what is missing to build the module; fails if anything is. $1 is the
# repository, whose Cargo.toml names the oldest Rust.
check_tools() (
    missing=0
    for tool in "${CC:-cc}" make "${CARGO:-cargo}"; do
        command -v "$tool" > /dev/null && continue
        [ "$tool" = "${CC:-cc}" ] && package=cc || package=${tool##*/}
        echo "no $tool: $(install_hint "$package")" >&2
        missing=1
    done
    if ! has_libclang; then
        echo "no libclang (or set LIBCLANG_PATH to its folder): $(install_hint libclang)" >&2
        missing=1
    fi
    wanted=$(sed -n 's/^rust-version = "\([0-9]*\.[0-9]*\).*"/\1/p' "$1/Cargo.toml")
    found=$("${CARGO:-cargo}" --version 2> /dev/null | sed 's/^cargo \([0-9]*\.[0-9]*\).*/\1/')
    if [ -n "$found" ] && [ "${found%%.*}${found#*.}" -lt "${wanted%%.*}${wanted#*.}" ]; then
        echo "cargo is $found, and the module needs $wanted: install a newer Rust, as by rustup" >&2
        missing=1
    fi
    exit $missing
)

# Whether bindgen will find a libclang: in the folders that it looks at.
has_libclang() (
    for folder in "${LIBCLANG_PATH:-}" /usr/lib/llvm*/lib /usr/lib/llvm/*/lib* /usr/lib64/llvm*/lib* \
        /usr/lib64 /usr/lib /usr/lib/*-linux-* /usr/local/lib /usr/local/lib64 \
        "$(llvm-config --libdir 2> /dev/null)"; do
        for library in "$folder"/libclang.so* "$folder"/libclang-*.so*; do
            [ ! -e "$library" ] || exit 0
        done
    done
    exit 1
)

# Prints the version of the sources in folder $1, or nothing.
version_of_sources() {
    sed -n 's/^#define NGINX_VERSION *"\(.*\)"/\1/p' "$1/src/core/nginx.h" 2> /dev/null
}

# Prints the name and version of binary $1, such as nginx/1.22.1.
version_of_binary() {
    "$1" -v 2>&1 | sed -n 's/^[A-Za-z]* version: \([^ ]*\).*/\1/p'
}

# Prints the signature that binary $1 demands of modules. That of a fork may begin with its name.
signature_of_binary() {
    LC_ALL=C tr -c 'A-Za-z0-9,' '\n' < "$1" | grep -E '^([A-Za-z]+,)?[48],[48],[48],[01]{30,40}$' \
        | head -n 1
}

# Prints the signature of a module for the sources $1 configured in $2, both absolute. Prints one
# line and fails if the compiler misses a header.
signature_of_sources() (
    flags=$({ cat "$2/Makefile" && printf '\nauthgear-flags:\n\t@echo $(CFLAGS) $(ALL_INCS)\n'; } \
        | make -s --no-print-directory -C "$1" -f - authgear-flags 2> /dev/null) \
        || fail "make cannot read $2/Makefile: configure $1 again, with GNU make installed."
    errors=$(mktemp)
    # Unquoted: one word for each flag.
    if ! text=$(cd "$1" && printf '#include <ngx_config.h>\n#include <ngx_core.h>\n%s\n' \
        'SIGNATURE NGX_MODULE_SIGNATURE' | ${CC:-cc} $flags -E -P - 2> "$errors"); then
        header=$(sed -n 's/.*fatal error: \([^:]*\):.*/\1/p' "$errors" | head -n 1)
        if [ -n "$header" ]; then
            echo "no header $header: $(install_hint "$header")" >&2
        else
            echo "$1: the compiler cannot read its headers: $(grep -m 1 error "$errors")" >&2
        fi
        rm -f "$errors"
        exit 1
    fi
    rm -f "$errors"
    echo "$text" | sed -n '/^SIGNATURE/,$p' | sed 's/^SIGNATURE//' | tr -cd 'A-Za-z0-9,'
    echo
)

# Prints the macros of the sources $1 for which the signatures $2 and $3 differ.
differing_features() {
    awk -v ours="${2##*,}" -v theirs="${3##*,}" '
        /^#if \(/ { name = $2; gsub(/[()]/, "", name) }
        /^#define NGX_MODULE_SIGNATURE_[0-9]+ *"1"/ {
            at = $2; sub(/.*_/, "", at)
            if (at in seen) next
            seen[at] = 1
            if (substr(ours, at, 1) != substr(theirs, at, 1))
                print name (substr(theirs, at, 1) == "1" ? " (on in the binary)" : " (off in the binary)")
        }' "$1/src/core/ngx_module.h" | paste -s -d ';' - | sed 's/;/, /g'
}

# Ends the script with one line if the sources $1 are of a fork that no module can be built for.
check_fork() {
    [ ! -f "$1/src/core/angie.h" ] || fail "$1 has sources of Angie, whose ngx_module_t the crate \
nginx-sys does not know: run the module with nginx."
}

# Ends the script with one line unless $1 has sources of nginx, and $2 is where they were
# configured, with what the module needs. Both are absolute.
check_sources() (
    [ -d "$1" ] || fail "NGINX_SOURCE_DIR=$1: no such folder. Unpack the sources of your nginx \
there; nginx -v prints the version."
    [ -f "$1/src/core/nginx.h" ] || fail "NGINX_SOURCE_DIR=$1 has no sources of nginx: no \
src/core/nginx.h."
    check_fork "$1"
    version=$(version_of_sources "$1")
    [ "$(echo "$version" | awk -F. '{ print $1 * 1000 + $2 }')" -ge 1022 ] \
        || fail "$1 is nginx $version: the module needs 1.22 or later."
    configure=./configure
    [ -f "$1/configure" ] || configure=auto/configure
    if ! [ -f "$2/ngx_auto_config.h" ] || ! [ -f "$2/Makefile" ]; then
        if [ "$2" = "$1/objs" ]; then
            fail "$1 is not configured: run (cd $1 && $configure ARGUMENTS) with the arguments \
that nginx -V prints."
        fi
        fail "NGINX_BUILD_DIR=$2 has no ngx_auto_config.h and Makefile: run (cd $1 && $configure \
ARGUMENTS --builddir=$2) with the arguments that nginx -V prints."
    fi
    grep -q '^#define NGX_HTTP_SSL ' "$2/ngx_auto_config.h" || fail "$2 is configured without \
--with-http_ssl_module, which the module needs: run $configure in $1 with it, as the nginx must \
have been."
)

# Prints the folder of nginx's sources in a release of the crate nginx-src that satisfies $1, or
# nothing. $2 is a folder for the package that depends on it.
crate_sources() (
    mkdir -p "$2/src"
    : > "$2/src/lib.rs"
    cat > "$2/Cargo.toml" <<END
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
nginx-src = "$1"
[workspace]
END
    manifest=$("${CARGO:-cargo}" metadata --quiet --format-version 1 \
        --manifest-path "$2/Cargo.toml" 2> /dev/null \
        | grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*"' | cut -d '"' -f 4) || true
    [ -z "$manifest" ] || echo "$(dirname "$manifest")/nginx"
)
