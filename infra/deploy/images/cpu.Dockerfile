# CPU render worker, Ray head, job submitter and fetcher: the runtime dependencies at the versions of requirements.lock.
# Build from the repository root:
#   docker build -f infra/deploy/images/cpu.Dockerfile --build-arg GIT_COMMIT="$(git describe --always --dirty --abbrev=40 --exclude='*')" -t REGISTRY/mvforge-cpu:TAG .
# For a repeatable build give the base image by digest: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS environment
# torch of the default index brings CUDA along; give the index of PyTorch's CPU builds for a smaller image.
ARG TORCH_INDEX_URL=""
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml requirements.lock ./
# What the program needs and nothing of its tests; the lock says which versions, indirect ones included.
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))" > runtime.txt \
    && pip install --no-cache-dir --constraint requirements.lock ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
        --requirement runtime.txt setuptools wheel

FROM ${PYTHON_IMAGE}
# The bpy module's system libraries (it opens no window), and wget for the probes of older KubeRay operators.
# Debian keeps one version of each in its archive, so the base image's date is the pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libx11-6 libxext6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1 wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin mvforge
COPY --from=environment /opt/venv /opt/venv
WORKDIR /opt/mvforge
COPY pyproject.toml README.md LICENSE ./
COPY pipelines pipelines
COPY evaluation evaluation
COPY training training
COPY rendering rendering
COPY infra infra
ARG GIT_COMMIT=unknown
# A node whose power or network is gone says no goodbye: without the two keepalives calls to it hang for up to 7 minutes.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_grpc_client_keepalive_time_ms=30000 \
    RAY_grpc_client_keepalive_timeout_ms=20000 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MVFORGE_HOME=/tmp/mvforge \
    MVFORGE_GIT_COMMIT=${GIT_COMMIT}
# Editable, as in `make setup`: the code stays in this folder, where a job's driver looks for it. An image without bpy's libraries fails here.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && python -c "import bpy"
USER 10001:10001
CMD ["mvforge", "--help"]
