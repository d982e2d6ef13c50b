#!/usr/bin/env python3
"""Writes OCI archives, which docker load, podman, skopeo and ctr read, with Python's standard library alone.

usage: oci.py pack --rootfs DIR --name NAME:TAG --revision TEXT --created SECONDS --output FILE [--level N]
       oci.py merge --output FILE ARCHIVE...

`pack` makes an image of a directory; the architecture is that of its /bin/tollgate. The same input gives the
same bytes. `merge` makes one image for several platforms of one archive for each.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import pathlib
import tarfile

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# e_machine of an ELF header.
ARCHITECTURES = {62: "amd64", 183: "arm64"}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encoded(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Archive:
    """An OCI image layout that is being put together."""

    def __init__(self):
        self.blobs = {}

    def add(self, media_type, data):
        """Adds a blob and returns its descriptor."""
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def write(self, path, descriptor, name):
        """Writes the archive, with `descriptor` as the image called `name`."""
        repository, tag = name.rsplit(":", 1)
        # docker load takes the full name, everything else the tag.
        full = name if "/" in repository else f"docker.io/library/{name}"
        annotations = {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**descriptor, "annotations": annotations}]}
        files = {"oci-layout": encoded({"imageLayoutVersion": "1.0.0"}), "index.json": encoded(index)}
        for name_of_blob, data in sorted(self.blobs.items()):
            files["blobs/" + name_of_blob.replace(":", "/")] = data
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name_of_file, data in files.items():
                header = tarfile.TarInfo(name_of_file)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


def layer(root, created):
    """The directory as a tar archive: sorted, owned by root, all of one time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            header = tar.gettarinfo(path, str(path.relative_to(root)))
            header.uid = header.gid = 0
            header.uname = header.gname = ""
            header.mtime = created
            if header.isreg():
                with path.open("rb") as file:
                    tar.addfile(header, file)
            else:
                tar.addfile(header)
    return packed.getvalue()


def architecture(program):
    with program.open("rb") as file:
        header = file.read(20)
    machine = int.from_bytes(header[18:20], "little")
    if header[:4] != b"\x7fELF" or machine not in ARCHITECTURES:
        raise SystemExit(f"error: {program}: not a program for amd64 or arm64")
    return ARCHITECTURES[machine]


def pack(options):
    root = options.rootfs
    tag = options.name.rsplit(":", 1)[1]
    time = datetime.datetime.fromtimestamp(options.created, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    platform = {"os": "linux", "architecture": architecture(root / "bin/tollgate")}
    labels = {
        "org.opencontainers.image.title": "tollgate",
        "org.opencontainers.image.description": "Rate-limit service for Envoy and any gRPC or HTTP client",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": tag,
        "org.opencontainers.image.revision": options.revision,
        "org.opencontainers.image.created": time,
    }
    tar = layer(root, options.created)
    config = {
        **platform,
        "created": time,
        # As the Dockerfile has it.
        "config": {
            "User": "65534:65534",
            "WorkingDir": "/",
            "Entrypoint": ["/bin/tollgate"],
            "ExposedPorts": {f"{port}/tcp": {} for port in (8080, 8081, 6070, 9090)},
            "StopSignal": "SIGTERM",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
        "history": [{"created": time, "created_by": "deploy/image/build.sh"}],
    }
    archive = Archive()
    compressed = gzip.compress(tar, compresslevel=options.level, mtime=0)
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": archive.add(CONFIG, encoded(config)),
        "layers": [archive.add(LAYER, compressed)],
        "annotations": labels,
    }
    descriptor = {**archive.add(IMAGE, encoded(manifest)), "platform": platform}
    archive.write(options.output, descriptor, options.name)


def merge(options):
    archive, manifests, names = Archive(), [], set()
    for path in options.archives:
        with tarfile.open(path) as tar:
            contents = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}
        for name, data in contents.items():
            if name.startswith("blobs/"):
                archive.blobs[digest(data)] = data
        for descriptor in json.loads(contents["index.json"])["manifests"]:
            names.add(descriptor.pop("annotations")["io.containerd.image.name"])
            manifests.append(descriptor)
    platforms = [descriptor["platform"]["architecture"] for descriptor in manifests]
    if len(set(platforms)) != len(platforms):
        raise SystemExit(f"error: two archives are for the same architecture: {', '.join(platforms)}")
    if len(names) != 1:
        raise SystemExit(f"error: the archives are of different images: {', '.join(sorted(names))}")
    index = archive.add(INDEX, encoded({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    archive.write(options.output, index, names.pop())


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--rootfs", type=pathlib.Path, required=True)
    packing.add_argument("--name", required=True)
    packing.add_argument("--revision", required=True)
    packing.add_argument("--created", type=int, required=True)
    packing.add_argument("--level", type=int, default=9)
    packing.add_argument("--output", type=pathlib.Path, required=True)
    packing.set_defaults(run=pack)
    merging = commands.add_parser("merge")
    merging.add_argument("--output", type=pathlib.Path, required=True)
    merging.add_argument("archives", type=pathlib.Path, nargs="+")
    merging.set_defaults(run=merge)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
