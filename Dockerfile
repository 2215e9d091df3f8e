# Everything that training, evaluation, the server and the page need; compose.yaml starts them. docs/guide/docker.md tells more.
#
#     docker build -t llm-istft-vits .
#     docker build -t llm-istft-vits:cuda --build-arg TORCH=cu130 .
#     docker run --rm -v "$PWD/outputs:/app/outputs" llm-istft-vits synthesize.py --text "Hello world" -o outputs/hello.wav

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS packages
# cpu, or a CUDA version of https://download.pytorch.org/whl: its wheels bring CUDA along, the host needs the driver alone
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}
# pesq, of the evaluation, has no wheel; without versions, as Debian keeps the newest alone
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /requirements
COPY requirements*.txt ./
# PyTorch first, so that the others find it there; misaki, notebooks and tests are not for the image
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "$(grep '^torch==' requirements.txt)" \
    && rm requirements-dev.txt requirements-misaki.txt requirements-notebooks.txt \
    && find . -name 'requirements*.txt' -printf '-r %f\n' > all.txt \
    && pip install --no-cache-dir -r all.txt

FROM ${PYTHON_IMAGE}
# whose the files in the volumes are: --build-arg UID=$(id -u)
ARG UID=1000
RUN useradd --create-home --uid "${UID}" speaker \
    && mkdir /app \
    && chown speaker /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY --chown=speaker . .
USER speaker
RUN mkdir -p data checkpoints logs outputs recordings pretrained_llm encodec_pretrained
ENTRYPOINT ["python3"]
CMD ["serve.py", "--host", "0.0.0.0"]
EXPOSE 8000
