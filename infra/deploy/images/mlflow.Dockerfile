# MLflow server with a Postgres driver and S3 artifacts. Build from the repository root:
#   docker build -f infra/deploy/images/mlflow.Dockerfile -t REGISTRY/mvforge-mlflow:TAG .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin mvforge \
    && python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /build
COPY requirements.lock infra/deploy/images/mlflow-requirements.txt ./
RUN pip install --no-cache-dir --constraint requirements.lock --requirement mlflow-requirements.txt
WORKDIR /home/mvforge
USER 10001:10001
# The loopback interface until somebody says otherwise: the manifest gives host, allowed hosts, database and bucket.
CMD ["mlflow", "server", "--host", "127.0.0.1"]
