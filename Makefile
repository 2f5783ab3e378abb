# make test    builds the module and runs every test, installing what is missing first
# make demo    shows it at work; make demo ONCE=1 checks each answer and exits
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

.PHONY: build test demo lint build-dependencies nginx clients clean

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

# Clients that tests let have their say.
clients:
	$(call install,curl python3 python3-grpcio chromium chromium-driver)

test: build nginx clients
	$(CARGO) test --locked -p authgear
	$(CARGO) test --locked -p authgear-tests

demo: build nginx
	$(CARGO) run --quiet --locked -p authgear-tests --bin demo -- \
	    $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

lint: build-dependencies $(HEADERS)
	$(CARGO) fmt --all --check
	$(NGINX_ENV) $(CARGO) clippy --locked --release -- -D warnings
	$(CARGO) clippy --locked -p authgear -p authgear-tests --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || { \
	    echo "installing cargo-deny (cargo)"; $(CARGO) install --quiet --locked cargo-deny; }
	$(CARGO) deny --all-features check bans licenses sources

clean:
	rm -rf build
	$(CARGO) clean
