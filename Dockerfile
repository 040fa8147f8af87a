# leanlens with its server and page, at the tested versions.
#
#   docker build -t leanlens .                                            # for a processor
#   docker build -t leanlens --build-arg TORCH=cu130 .                    # for an NVIDIA GPU
#   docker run --rm -p 127.0.0.1:8000:8000 -v leanlens:/data leanlens     # with a GPU: add --gpus all
#
# TORCH is a word of `uv pip install --torch-backend`. Its CUDA libraries come as packages; the machine brings the driver.
FROM python:3.11-slim

ARG TORCH=cpu
ARG EXTRAS=serve

WORKDIR /opt/leanlens
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY leanlens leanlens
COPY recipes recipes
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --torch-backend "$TORCH" --constraint constraints.txt ".[$EXTRAS]" \
    && useradd --create-home --uid 1000 lens \
    && install --directory --owner lens --group lens /data

# Pictures, fetched weights and caches: all that is worth keeping lies in the volume.
ENV LEANLENS_MODELS=/data/models \
    HF_HOME=/data/hub \
    XDG_CACHE_HOME=/data/cache \
    PYTHONUNBUFFERED=1
VOLUME /data
WORKDIR /data
USER 1000:1000

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["leanlens"]
CMD ["serve", "--host", "0.0.0.0", "--output", "/data/pictures"]
