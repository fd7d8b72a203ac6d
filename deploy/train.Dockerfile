# What runs on a cluster: training, batches over Ray, and replicas of the server. Built from a checkout:
#   docker build -f deploy/train.Dockerfile -t registry.example.com/mmada-train:0.1.0 .
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
COPY . /src
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* # KubeRay's probes of a RayService
RUN pip install --no-cache-dir '/src[train,rl,scale]' && rm -r /src && useradd --create-home mmada
USER mmada
WORKDIR /home/mmada
