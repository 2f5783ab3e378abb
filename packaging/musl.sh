#!/usr/bin/env bash
# Builds an nginx and the module on musl, the libc of Alpine. Installs nothing but a target of Rust.
#
#   packaging/musl.sh FOLDER
#
# FOLDER/nginx/nginx is the binary, which runs here by the dynamic linker of Debian's package musl,
# and FOLDER/module.so the module, in the profile of `make dev`. OpenSSL, PCRE2 and zlib are shared
# libraries, as on Alpine; their sources are those that crates have. Needs musl-tools.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cargo=${CARGO:-cargo}
target=x86_64-unknown-linux-musl
root=$folder/root

# The compiler, with the headers of the kernel and the libraries that are built here.
mkdir -p "$root/include" "$root/lib"
ln -sfn /usr/include/linux /usr/include/asm-generic "/usr/include/$(gcc -print-multiarch)/asm" \
    "$root/include/"
export CC=$folder/cc
cat > "$CC" <<END
#!/bin/sh
exec musl-gcc "\$@" -isystem $root/include -L$root/lib -Wl,-rpath,$root/lib
END
chmod +x "$CC"

libraries() {
    local metadata fetch=$folder/fetch
    mkdir -p "$fetch/src"
    : > "$fetch/src/lib.rs"
    cat > "$fetch/Cargo.toml" <<END
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
libz-sys = "=1.1.31"
openssl-src = "~300.5"
pcre2-sys = "=0.2.10"
[workspace]
END
    metadata=$("$cargo" metadata --quiet --format-version 1 --manifest-path "$fetch/Cargo.toml")
    # The folder of crate $1.
    crate() {
        dirname "$(grep -o "\"manifest_path\":\"[^\"]*/$1-[0-9][^\"]*\"" <<< "$metadata" | cut -d '"' -f 4)"
    }
    # Makes lib$1.so of the arguments that follow.
    shared() {
        "$CC" -O2 -fPIC -shared "-Wl,-soname,lib$1.so.1" -o "$root/lib/lib$1.so.1" "${@:2}"
        ln -sf "lib$1.so.1" "$root/lib/lib$1.so"
    }
    echo "building zlib, PCRE2 and OpenSSL"
    local source
    source=$(crate libz-sys)/src/zlib
    cp "$source"/z{lib,conf}.h "$root/include/"
    shared z -DHAVE_UNISTD_H "$source"/*.c
    source=$(crate pcre2-sys)/upstream
    cp "$source/include/pcre2.h" "$root/include/"
    # Files that others include are left out.
    shared pcre2-8 -DPCRE2_CODE_UNIT_WIDTH=8 -DHAVE_CONFIG_H -DHAVE_STDLIB_H -DHAVE_MEMMOVE \
        -DSTDC_HEADERS -DSUPPORT_PCRE2_8 -DSUPPORT_UNICODE -DSUPPORT_JIT -I"$source/src" \
        -I"$source/deps" -I"$source/include" \
        $(ls "$source"/src/*.c | grep -v -e _jit_match.c -e _jit_misc.c -e _ucptables.c)
    rm -rf "$folder/openssl"
    cp -r "$(crate openssl-src)/openssl" "$folder/openssl"
    # musl has no contexts to switch between, which `async` needs.
    (cd "$folder/openssl" && ./Configure linux-x86_64 shared no-tests no-apps no-docs no-async \
        no-engine no-module no-legacy no-ssl3 no-weak-ssl-ciphers -O1 \
        && make build_generated && make -j "$(nproc)" libcrypto.a libssl.a) > "$folder/openssl.log" 2>&1 \
        || { tail "$folder/openssl.log" >&2; exit 1; }
    cp -r "$folder/openssl/include/openssl" "$root/include/"
    # The crate lacks the files that make the shared libraries.
    shared crypto -Wl,--whole-archive "$folder/openssl/libcrypto.a" -Wl,--no-whole-archive
    shared ssl -Wl,--whole-archive "$folder/openssl/libssl.a" -Wl,--no-whole-archive -lcrypto
    touch "$root/complete"
}
[ "$root/complete" -nt "$0" ] || libraries

packaging/crate-nginx.sh 1.28 "$folder/nginx"

self_contained=$(rustc --print sysroot)/lib/rustlib/$target/lib/self-contained
[ -d "$self_contained" ] || rustup --quiet target add "$target"
# Unwinding is in libgcc_s on Alpine. Debian's needs its own libc: Rust's libunwind takes its place.
mkdir -p "$folder/unwind"
echo "INPUT($self_contained/libunwind.a)" > "$folder/unwind/libgcc_s.so"
NGINX_SOURCE_DIR=$folder/nginx/src NGINX_BUILD_DIR=$folder/nginx/objs \
    CC_x86_64_unknown_linux_musl=$CC CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=$CC \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="-C target-feature=-crt-static \
        -C link-self-contained=no -L $folder/unwind" \
    BINDGEN_EXTRA_CLANG_ARGS="--target=$target -nostdlibinc -isystem /usr/include/x86_64-linux-musl \
        -isystem $root/include" \
    env -u CC "$cargo" build --profile loop --locked --target "$target" --target-dir "$folder/target"
cp "$folder/target/$target/loop/libngx_http_authgear_module.so" "$folder/module.so"
