#!/usr/bin/env bash
# Unpacks Debian's nginx for arm64 and builds the module for it. Installs nothing but a target of
# Rust.
#
#   packaging/arm64.sh FOLDER
#
# FOLDER/nginx runs the binary with qemu-user, and FOLDER/module.so is the module, in the profile of
# `make dev`. Needs gcc-aarch64-linux-gnu and qemu-user.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/debian.sh"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cargo=${CARGO:-cargo}
target=aarch64-unknown-linux-gnu
root=$folder/root

if [ ! "$folder/complete" -nt "$0" ]; then
    rm -rf "${folder:?}"/*
    ARCHITECTURE=arm64 "$here/debian-unpack.sh" bookworm "$root" \
        "nginx libc6-dev libssl-dev libpcre2-dev zlib1g-dev" nginx-dev
    mkdir "$folder/bin"
    # Programs that nginx's configure compiles are run by qemu.
    cat > "$folder/bin/cc" <<END
#!/bin/sh
aarch64-linux-gnu-gcc --sysroot=$root "\$@" || exit
for argument; do
    case \$argument in
        */autotest)
            [ -f "\$argument" ] || continue
            mv "\$argument" "\$argument.arm64"
            printf '#!/bin/sh\nexec qemu-aarch64 -L $root %s.arm64\n' "\$argument" > "\$argument"
            chmod +x "\$argument" ;;
    esac
done
END
    cat > "$folder/bin/uname" <<'END'
#!/bin/sh
case $1 in -m) echo aarch64 ;; *) exec /bin/uname "$@" ;; esac
END
    printf '#!/bin/sh\nexec qemu-aarch64 -L %s %s "$@"\n' "$root" "$root/usr/sbin/nginx" \
        > "$folder/nginx"
    chmod +x "$folder/nginx" "$folder/bin"/*
    "$folder/nginx" -v
    cp -r "$root/usr/share/nginx/src" "$folder/src"
    (
        cd "$folder/src"
        PATH=$folder/bin:$PATH CC=$folder/bin/cc bash -euc '. ./conf_flags
            ./configure "${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir="$1"' \
            configure "$folder/objs" > "$folder/configure.log"
    )
    end_folder
fi

[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup --quiet target add "$target"
NGINX_SOURCE_DIR=$folder/src NGINX_BUILD_DIR=$folder/objs \
    CC_aarch64_unknown_linux_gnu=$folder/bin/cc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$folder/bin/cc \
    BINDGEN_EXTRA_CLANG_ARGS="--target=aarch64-linux-gnu --sysroot=$root" \
    "$cargo" build --profile loop --locked --target "$target" --target-dir "$folder/target"
cp "$folder/target/$target/loop/libngx_http_authgear_module.so" "$folder/module.so"
