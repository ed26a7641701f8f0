# The container action, and with arguments the command line. Everything is installed beside the
# base image's Python, so that /usr/local/bin is all that a path needs.
FROM python:3.13-slim@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285 AS build
WORKDIR /build
COPY requirements/runtime.txt requirements/
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --prefix=/install --requirement=requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY backup backup
RUN PYTHONPATH=/install/lib/python3.13/site-packages \
        python3 -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --no-deps --no-build-isolation --no-index --prefix=/install . \
    && rm -r /install/lib/python3.13/site-packages/flit_core*

FROM python:3.13-slim@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285
# git's security fixes are wanted as soon as Debian has them, so no version is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt \
    && python3 -m pip uninstall --yes --quiet --root-user-action=ignore pip
COPY --from=build /install /usr/local
COPY entrypoint.py /entrypoint.py
LABEL org.opencontainers.image.title="repo-backup-action" \
      org.opencontainers.image.description="Back up every repository of an owner as git bundles, and give every state back" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/org/repo-backup-action"
# GitHub's runner needs root for the folders that it mounts, and a step of a job's container too.
# Elsewhere any user will do, and a read-only file system with a /tmp.
ENTRYPOINT ["/entrypoint.py"]
