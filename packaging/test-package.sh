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
configured
# The configuration in /etc/nginx is still valid.
nginx -t -q

# The module loads and serves beside every http module of Debian at once.
mapfile -t others < <(apt-cache pkgnames libnginx-mod-http- | grep -v -e -dev$ -e "^$package$" | sort)
packaging/install.sh "${others[@]}"
configured
nginx -t -q

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
