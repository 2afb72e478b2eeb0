# The one list of commands. `make` alone shows it.

SHELL := /bin/bash
CARGO ?= cargo

# What the tests run against and with; the demo installs its own, smaller list.
PACKAGES := slapd ldap-utils dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-ldap postfix postfix-ldap \
	btrfs-progs chromium-headless-shell courier-authlib courier-authlib-pipe curl fail2ban fetchmail getmail6 haproxy isync \
	libcourier-unicode4 libgamin0 mutt neomutt offlineimap3 openssl procps prometheus python3 shellcheck strace \
	systemd util-linux
# Machines in name spaces, and what is in front of them.
PACKAGES += dnsmasq-base iproute2 keepalived nftables
# What Cyrus needs.
PACKAGES += libical3 libicu72 libjansson4 libpcre3 libpq5 libsasl2-modules \
	libsasl2-modules-db libsqlite3-0 libwrap0 libxapian30 libxml2 sasl2-bin
# Real servers whose packages can't be installed beside Dovecot's: unpacked, by tests/unpack-packages.
COURIER := courier-base courier-imap courier-pop
CYRUS := cyrus-common cyrus-imapd cyrus-pop3d
# Clients from the registry of npm, in the versions that the lock file names.
NPM := tests/it/tools/npm
# Who judges manual pages.
PACKAGES += mandoc
# What the long tests need besides: a Debian to install the package in, its systemd, and who judges packages.
FULL_PACKAGES := debootstrap dpkg-dev lintian systemd-container
# What `make bench-versus` runs beside PigeonAir, and what it needs itself.
BENCH_PACKAGES := nginx libnginx-mod-mail haproxy perdition perdition-ldap slapd \
	dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-ldap openssl util-linux linux-perf
# How long each fuzz target runs.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(notdir $(wildcard fuzz/corpus/*))
SCRIPTS := demo/demo demo/install-packages config/courier/authProg tests/unpack-packages .ci/run \
	config/debian/postinst config/debian/postrm config/debian/prerm

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: ## Run a real cluster on loopback, show it at work, stay until Ctrl-C (root)
	@demo/demo run

.PHONY: demo-up
demo-up: ## The same in the background; target/demo/env holds addresses and logins (root)
	@demo/demo up

.PHONY: demo-down
demo-down: ## End what demo-up started and remove it
	@demo/demo down

.PHONY: build
build: ## Build target/release/pigeonair
	$(CARGO) build --release --locked

# Pages and completion come from the program's own command line; what is packed stands in Cargo.toml. With DEB_PROFILE=dev it is
# built sooner, for whoever works on the package.
DEB_PROFILE ?= release
DEB_PROGRAM = target/$(subst dev,debug,$(DEB_PROFILE))/pigeonair

.PHONY: deb
deb: ## Build target/debian/pigeonair_VERSION_ARCH.deb
	@demo/install-packages dpkg-dev
	@cargo-deb --version >/dev/null 2>&1 || $(CARGO) install cargo-deb --locked
	@rm -rf target/package target/debian
	$(CARGO) run --quiet --locked --example man -- target/package/man
	$(CARGO) build --profile $(DEB_PROFILE) --locked
	@mkdir -p target/package/completion
	$(DEB_PROGRAM) completion bash >target/package/completion/pigeonair
	$(DEB_PROGRAM) completion fish >target/package/completion/pigeonair.fish
	$(DEB_PROGRAM) completion zsh >target/package/completion/_pigeonair
	$(CARGO) deb --no-build --locked --profile $(DEB_PROFILE)

.PHONY: deps
deps: target/npm/installed ## Install what the tests need, without starting any service (root)
	@demo/install-packages $(PACKAGES)
	@tests/unpack-packages courier $(COURIER)
	@tests/unpack-packages cyrus $(CYRUS)

# Node and npm may be there from elsewhere than Debian.
target/npm/installed: $(NPM)/package.json $(NPM)/package-lock.json
	@command -v node >/dev/null || demo/install-packages nodejs
	@command -v npm >/dev/null || demo/install-packages npm
	@mkdir -p $(@D)
	@cp $^ $(@D)
	cd $(@D) && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

# The fuzz targets are not linted here: they need every dependency once more, minutes of it, and are a line each. The
# properties that they call are linted with the tests.
.PHONY: check
check: ## Formatting, lints, documentation and scripts, with no warning let through
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path lber/Cargo.toml
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	shellcheck -x $(SCRIPTS)

# Not part of `make check`: to install cargo-deny takes ten minutes, and it fetches the list of known weaknesses. What it says of licences and
# sources tests/tidy.rs keeps, too.
.PHONY: audit
audit: ## Known weaknesses, licences and sources of all dependencies, by cargo-deny
	@cargo-deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check

.PHONY: test
test: deps ## Run all tests against real slapd, Dovecot and Postfix (root)
	$(CARGO) test --locked

.PHONY: test-full
test-full: deps ## The same with the long ones (root)
	@demo/install-packages $(FULL_PACKAGES)
	PIGEONAIR_FULL=1 PIGEONAIR_TEST_PATIENCE=1800 $(CARGO) test --locked

.PHONY: bench
bench: ## Measure the parts: parsers, handshake, cache, relay
	$(CARGO) bench --locked --bench micro

.PHONY: bench-versus
bench-versus: ## Measure CPU time and memory beside nginx, Dovecot's proxy, HAProxy and perdition (root)
	@demo/install-packages $(BENCH_PACKAGES)
	$(CARGO) bench --locked --bench versus

# What is found goes to fuzz/artifacts, what is learned to fuzz/target; the seeds in fuzz/corpus stay as they are.
.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZ_SECONDS (60)
	@cargo-fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	@set -e; for target in $(FUZZ_TARGETS); do \
		echo "=== $$target"; \
		learned=fuzz/target/learned/$$target; \
		mkdir -p "$$learned"; \
		dictionary=fuzz/dictionaries/$$target; \
		$(CARGO) fuzz run --sanitizer none "$$target" "$$learned" "fuzz/corpus/$$target" -- \
			-max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 \
			$$(test ! -f "$$dictionary" || echo "-dict=$$dictionary"); \
	done
