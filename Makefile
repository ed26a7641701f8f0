# Every target makes the environment first when it is missing or stale.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= auto
NIGHTS ?= 300
REPOSITORIES ?= 50
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header
LOCK    = $(COMPILE) pyproject.toml

WORKFLOWS = .github/workflows/*.yml examples/*.yml
ACTIONS   = action.yml with-role/action.yml

.DEFAULT_GOAL := help
.PHONY: help install develop backup restore test test-stores soak image-test check fix bench docs lock clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The interpreter, the packages of the lock file, then this checkout itself.
$(VENV)/installed: requirements/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/runtime.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/developed: $(VENV)/installed requirements/development.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/development.txt
	@touch $@

install: $(VENV)/installed ## make the environment with .venv/bin/repo-backup

develop: $(VENV)/developed ## the same with the tools that check and test

backup: $(VENV)/installed ## back up FROM=<folder or git:URL> TO=<folder or s3://bucket/prefix>
	@$(BIN)/repo-backup run --from "$(FROM)" --to "$(TO)"

restore: $(VENV)/installed ## bring back REPOSITORY=<name> FROM=<vault> TO=<folder>
	@$(BIN)/repo-backup restore "$(REPOSITORY)" --from "$(FROM)" "$(TO)"

test: $(VENV)/developed ## run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

test-stores: $(VENV)/developed ## run against Ceph, Swift and a server of Git LFS (as root)
	$(BIN)/python -m pytest tests/stores

soak: $(VENV)/developed ## live through NIGHTS=300 of REPOSITORIES=50 in which everything goes wrong
	$(BIN)/python -m tests.soak --nights $(NIGHTS) --repositories $(REPOSITORIES) $(if $(SEED),--seed $(SEED))

image-test: $(VENV)/developed ## build the image and run it as GitHub's runner does (as root)
	$(BIN)/python -m pytest tests/image

check: $(VENV)/developed ## format, lint, types, dead code, spelling, image, template, workflows, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile Dockerfile.lambda
	$(BIN)/cfn-lint aws/*.yaml
	$(BIN)/zizmor --offline --quiet --persona pedantic --config .github/zizmor.yml $(WORKFLOWS) $(ACTIONS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions $(ACTIONS)
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/python -m tests.support.actionlint $(WORKFLOWS)
	$(BIN)/python -m docs.generate --check

fix: $(VENV)/developed ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/developed ## measure over the repositories of REPOS=<folder>
	@$(BIN)/python -m benchmarks.folder "$(REPOS)"
	@$(BIN)/python -m benchmarks.network "$(REPOS)"

docs: $(VENV)/developed ## write the generated parts of the documents again
	$(BIN)/python -m docs.generate

lock: $(VENV)/developed ## choose the newest versions and write the lock files again
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --group build -o requirements/runtime.txt
	$(LOCK) --group build --group lambda -c requirements/runtime.txt -o requirements/lambda.txt
	$(LOCK) --group build --group lambda --group dev -c requirements/lambda.txt -o requirements/development.txt
	$(COMPILE) requirements/lfs-server.in -o requirements/lfs-server.txt

clean: ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
