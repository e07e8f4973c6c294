# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/endmark
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY jobs jobs
COPY db db
COPY worker worker
COPY cli cli
COPY client client
COPY endmark endmark
RUN /opt/endmark/bin/pip install --constraint constraints.txt '.[postgres,parquet,metrics,serve]'

FROM python:3.11-slim
# Triton builds the launchers of its kernels with a C compiler, at the first step of a GPU worker.
RUN apt-get update && apt-get install --no-install-recommends -y gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home endmark \
    && install -d -o endmark -g endmark /var/lib/endmark /models /data
COPY --from=build /opt/endmark /opt/endmark
ENV PATH=/opt/endmark/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ENDMARK_HOME=/var/lib/endmark \
    HF_HOME=/models
USER endmark
WORKDIR /data
VOLUME ["/var/lib/endmark", "/models"]
ENTRYPOINT ["endmark"]
CMD ["--help"]
