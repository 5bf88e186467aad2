# sbrt serve on a CPU, in a container. docs/serving.md shows how to build and run it.
#
# The first stage compiles, the second has no compiler. Kernels are chosen for the processor when the
# server starts, so one image serves every x86-64 or every aarch64 machine.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --no-deps -C cmake.define.SBRT_CUDA=OFF --wheel-dir /wheels /src

FROM python:3.11-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "sbrt[serve,hub] @ file://$(ls /wheels/sbrt-*.whl)" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 sbrt
USER sbrt
WORKDIR /home/sbrt
EXPOSE 8000
# /health answers 503 while the model loads; a large one takes minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["sbrt", "serve", "--host", "0.0.0.0"]
CMD ["--target", "demo"]
