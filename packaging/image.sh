#!/usr/bin/env bash
# Builds the Docker image of nginx with the module from the last commit.
#
#   packaging/image.sh ENGINE IMAGE BASE [VARIANT]
#
# ENGINE is a program that builds as `docker build` does. BASE is an official image of nginx, such as
# nginx:1.30.0 or nginx:1.30.0-alpine, or a Debian suite, such as debian:bookworm. VARIANT may be
# unprivileged: an nginx that does not run as root; or module: nothing but the module is added. In the
# environment:
#
#   PREBUILT           the module, or Debian's package of it, built for that nginx: it is not built again
#   NGINX_SOURCE_DIR   sources of that nginx: they are not fetched
#   BUILD_OPTIONS      options of `docker build`, such as "--network host"
set -euo pipefail

cd "$(dirname "$0")/.."
engine=$1 image=$2 base=$3 variant=${4:-}
case $base in
    debian:*) options=(--build-arg "DEBIAN=${base#debian:}") file=debian ;;
    # The data plane of NGINX Gateway Fabric is on Alpine too.
    *-alpine* | *nginx-gateway-fabric*) options=(--build-arg "BASE=$base") file=nginx-alpine ;;
    *) options=(--build-arg "BASE=$base") file=nginx ;;
esac
[ -z "$variant" ] || options+=(--target "$variant")

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
git archive HEAD | tar -x -C "$context"
if [ -n "${PREBUILT:-}" ]; then
    mkdir "$context/prebuilt"
    # The name that nginx and the Dockerfiles know.
    case $PREBUILT in
        *.so) cp "$PREBUILT" "$context/prebuilt/ngx_http_authgear_module.so" ;;
        *) cp "$PREBUILT" "$context/prebuilt/" ;;
    esac
fi
[ -z "${NGINX_SOURCE_DIR:-}" ] || cp -r "$NGINX_SOURCE_DIR" "$context/nginx-source"
# Unquoted: one word for each option.
"$engine" build "${options[@]}" ${BUILD_OPTIONS:-} \
    -f "$context/packaging/docker/$file.Dockerfile" -t "$image" "$context"
