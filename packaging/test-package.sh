#!/usr/bin/env bash
# Installs the .deb on this machine, checks that nginx loads the module, and removes the package.
# Needs root.
set -euo pipefail

package=libnginx-mod-http-authgear
deb=$(echo build/package/${package}_*.deb)
link=/etc/nginx/modules-enabled/50-mod-http-authgear.conf
trap 'dpkg --purge $package >/dev/null 2>&1 || true' EXIT

dir=$(mktemp -d)
cat > "$dir/nginx.conf" <<END
include /etc/nginx/modules-enabled/*.conf;
pid $dir/pid;
events {}
http { access_log off; server { listen 127.0.0.1:9; authgear https://192.0.2.1; } }
END
refused() { if "$@"; then echo "unexpected: $*" >&2; exit 1; fi; }
configured() { nginx -t -q -e stderr -c "$dir/nginx.conf"; }

refused configured 2> "$dir/before"
grep -q 'unknown directive "authgear"' "$dir/before"

dpkg --install "$deb"
[ -L $link ]
size=$(stat -c %s /usr/lib/nginx/modules/ngx_http_authgear_module.so)
echo "the module has $size bytes"
[ "$size" -le 3200000 ] || { echo "the module is larger than it was" >&2; exit 1; }
configured
# The first configuration of README.md, as it stands there.
sed -n '/^```nginx$/,/^```$/{/^```/!p;/^```$/q}' README.md > "$dir/readme.conf"
nginx -t -q -e stderr -c "$dir/readme.conf"
# The module fits this nginx, and Authgear is not asked.
authgear-check --offline "$dir/nginx.conf"
authgear-check --coverage "$dir/nginx.conf" | grep -q 'who gets in: everybody'
# The configuration in /etc/nginx is still valid.
nginx -t -q

# The module loads and serves beside every http module of Debian at once.
mapfile -t others < <(apt-cache pkgnames libnginx-mod-http- | grep -v -e -dev$ -e "^$package$" | sort)
packaging/install.sh "${others[@]}"
configured
nginx -t -q

# Installed again, as an upgrade is, a running nginx gets the new file: by another master, while the
# port is open all the time. policy-rc.d of containers would forbid it.
printf '#!/bin/sh\n' > "$dir/allow"
chmod +x "$dir/allow"
upgrade() {
    unshare --mount sh -euc '
        [ ! -e /usr/sbin/policy-rc.d ] || mount --bind "$1" /usr/sbin/policy-rc.d
        dpkg --install "$2"' upgrade "$dir/allow" "$deb"
}
master() { cat /run/nginx.pid; }
if [ -s /run/nginx.pid ] && kill -0 "$(master)" 2>/dev/null; then
    echo "nginx runs here: the upgrade of a running nginx was not tested" >&2
else
    sed "s|^pid .*|pid /run/nginx.pid;|; s|127.0.0.1:9|unix:$dir/nginx.sock|" \
        "$dir/nginx.conf" > "$dir/service.conf"
    "$(command -v nginx)" -c "$dir/service.conf" -e "$dir/error.log"
    trap 'kill -QUIT "$(master)" 2>/dev/null || true; dpkg --purge $package >/dev/null 2>&1 || true' EXIT
    before=$(master)
    upgrade
    after=$(master)
    [ "$before" != "$after" ] || { echo "nginx was not upgraded" >&2; exit 1; }
    grep -q ' (deleted)$' <(grep authgear "/proc/$after/maps") && exit 1
    grep -q authgear "/proc/$after/maps"
    # With a wrong configuration, the one that runs goes on.
    ln -s "$dir/wrong.conf" /etc/nginx/modules-enabled/99-wrong.conf
    echo wrong > "$dir/wrong.conf"
    upgrade
    rm /etc/nginx/modules-enabled/99-wrong.conf
    [ "$(master)" = "$after" ] && kill -0 "$after"
    kill -QUIT "$after"
fi

dpkg --remove $package
refused test -e $link
refused configured 2> /dev/null
nginx -t -q

dpkg --install "$deb"
configured
dpkg --purge $package
refused grep -r authgear <(ls /etc/nginx/modules-enabled /usr/share/nginx/modules-available /usr/lib/nginx/modules)
rm -r "$dir"
echo "$deb was installed, loaded and removed"
