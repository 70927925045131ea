"""Copies MLflow's artifacts to and from an archive, in MLflow's container: `artifacts.py save >FILE`, `artifacts.py load <FILE`."""

import os
import sys
import tarfile
from urllib.parse import urlsplit

destination = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
prefix = destination.path.strip("/") + "/" if destination.path.strip("/") else ""


def bucket():
    import boto3

    return boto3.resource("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL")).Bucket(destination.netloc)


class Stream:
    """A file of the archive, which cannot be read twice."""

    def __init__(self, file):
        self.read = file.read


def save():
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        if destination.scheme != "s3":
            if os.path.isdir(destination.path):
                archive.add(destination.path, arcname=".")
            return
        for item in bucket().objects.filter(Prefix=prefix):
            if item.key.endswith("/"):
                continue
            entry = tarfile.TarInfo(item.key.removeprefix(prefix))
            entry.size = item.size
            archive.addfile(entry, item.get()["Body"])


def load():
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        if destination.scheme != "s3":
            os.makedirs(destination.path, exist_ok=True)
            # Python before 3.12 has it with security updates only.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(destination.path)
            return
        target = bucket()
        for entry in archive:
            if entry.isfile():
                target.upload_fileobj(Stream(archive.extractfile(entry)), prefix + entry.name.removeprefix("./"))


{"save": save, "load": load}[sys.argv[1]]()
