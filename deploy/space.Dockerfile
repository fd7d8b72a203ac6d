# The studio as a Hugging Face Space of type Docker. Push a checkout with this file as its Dockerfile.
# The front matter of the Space's README.md needs `sdk: docker` and `app_port: 7860`.
# A public Space is open to everybody, so its limits are low.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
COPY . /src
RUN pip install --no-cache-dir '/src[serve]' && useradd --create-home --uid 1000 user
USER user
EXPOSE 7860
CMD ["mmada", "serve", "--host", "0.0.0.0", "--port", "7860", "--allowed-host", "*", "--max-queue", "32", "--max-n", "4", "--max-steps", "64", "--timeout", "60"]
