# The service as an image, for a CPU (default) or an NVIDIA GPU:
#   docker build --target cpu -t lavit-serve .
#   docker build --target gpu -t lavit-serve:gpu .
#   docker run -p 8000:8000 -v "$PWD/digits.bundle:/bundle:ro" lavit-serve
# A bundle is mounted, not copied in: one image serves every model.

FROM python:3.12-slim-bookworm AS build-cpu
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lavit_deploy lavit_deploy
COPY export export
COPY serving serving
COPY profiles profiles
RUN /opt/venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[serve,openvino]"

FROM python:3.12-slim-bookworm AS cpu
RUN useradd --system --uid 10001 --no-create-home lavit
COPY --from=build-cpu /opt/venv /opt/venv
# Memory of large pictures goes back to the system at once, where the allocator would keep it.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
  MALLOC_MMAP_THRESHOLD_=8388608
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["lavit-serve", "/bundle", "--host", "0.0.0.0", "--port", "8000"]

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS build-gpu
RUN apt-get update \
  && apt-get install --yes --no-install-recommends python3.12-venv=3.12.* \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3.12 -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lavit_deploy lavit_deploy
COPY export export
COPY serving serving
COPY profiles profiles
RUN /opt/venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[gpu]"

FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS gpu
RUN apt-get update \
  && apt-get install --yes --no-install-recommends python3.12=3.12.* \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --system --uid 10001 --no-create-home lavit
COPY --from=build-gpu /opt/venv /opt/venv
# Memory of large pictures goes back to the system at once, where the allocator would keep it.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1 \
  MALLOC_MMAP_THRESHOLD_=8388608
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["lavit-serve", "/bundle", "--host", "0.0.0.0", "--port", "8000", "--device", "cuda"]
