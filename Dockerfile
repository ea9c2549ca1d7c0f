# Builds the image of the server: installed in one stage, copied into a bare second one.
# docker build -t ggjax .                               for drivers of CUDA 12 (525 and newer)
# docker build -t ggjax --build-arg CUDA=cuda13 .       for drivers of CUDA 13 (580 and newer)
# docker build -t ggjax --build-arg CUDA=cpu .          without a GPU
FROM python:3.12-slim AS build
ARG CUDA=cuda12
WORKDIR /src
RUN python -m venv /opt/ggjax

# The dependencies alone first, gigabytes of them: a change of the source leaves this layer as it is.
COPY pyproject.toml ./
COPY scripts/requirements.py scripts/
RUN python scripts/requirements.py "$CUDA" >requirements.txt \
    && /opt/ggjax/bin/pip install --no-cache-dir --requirement requirements.txt

COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


FROM python:3.12-slim
RUN useradd --create-home --uid 1000 ggjax \
    && mkdir -p /models /cache/hub /cache/jax \
    && chown -R ggjax:ggjax /cache
COPY --from=build /opt/ggjax /opt/ggjax
COPY --from=build /wheels /wheels
RUN /opt/ggjax/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

# Compiled programs are kept, also quick ones, so that a second start compiles nothing.
ENV PATH=/opt/ggjax/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/hub \
    JAX_COMPILATION_CACHE_DIR=/cache/jax \
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# by number, so that a cluster can see that it is not root
USER 1000
WORKDIR /home/ggjax
VOLUME ["/models", "/cache/hub", "/cache/jax"]
EXPOSE 8000

# 503 until the programs are compiled; with another --port, give --no-healthcheck or your own.
HEALTHCHECK --interval=10s --timeout=6s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]

ENTRYPOINT ["ggjax"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
