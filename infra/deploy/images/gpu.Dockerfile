# GPU trainer, GPU render worker, encoder and generator: as cpu.Dockerfile, with the gpu extra. The NVIDIA driver comes from the host.
# Build from the repository root:
#   docker build -f infra/deploy/images/gpu.Dockerfile --build-arg GIT_COMMIT="$(git describe --always --dirty --abbrev=40 --exclude='*')" -t REGISTRY/mvforge-gpu:TAG .
# For a repeatable build give the base image by digest: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS environment
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml requirements.lock ./
# torch of the default index is a CUDA build and brings CUDA's libraries along. The lock does not list the gpu extra's own packages.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(p['dependencies'] + p['optional-dependencies']['gpu']))" > runtime.txt \
    && pip install --no-cache-dir --constraint requirements.lock --requirement runtime.txt setuptools wheel

FROM ${PYTHON_IMAGE}
# bpy's system libraries, wget for the probes of older KubeRay operators, and a C compiler: Triton builds its launchers with it.
# Debian keeps one version of each in its archive, so the base image's date is the pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libx11-6 libxext6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1 wget gcc libc6-dev \
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
# `graphics` beside compute: OptiX and EEVEE need the driver's ray tracing and EGL libraries. A node whose
# power or network is gone says no goodbye: without the two keepalives calls to it hang for up to 7 minutes.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_grpc_client_keepalive_time_ms=30000 \
    RAY_grpc_client_keepalive_timeout_ms=20000 \
    MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics \
    MVFORGE_HOME=/tmp/mvforge \
    MVFORGE_GIT_COMMIT=${GIT_COMMIT}
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && python -c "import bpy"
USER 10001:10001
CMD ["mvforge", "--help"]
