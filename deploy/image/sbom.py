#!/usr/bin/env python3
"""Writes the software bill of materials of the image to stdout, as CycloneDX 1.5.

usage: sbom.py [DEBIAN_PACKAGE...]

The crates are those that Cargo.lock resolves for the program on this platform, without development
dependencies; crates that only run while it is built have the scope "excluded". DEBIAN_PACKAGE names installed
packages whose files are in the image.
"""

import json
import pathlib
import re
import subprocess
import sys
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def output(*command):
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout


def checksums():
    """SHA-256 of each crate's archive, by name and version."""
    blocks = (REPOSITORY / "Cargo.lock").read_text().split("[[package]]")
    found = {}
    for block in blocks:
        fields = dict(re.findall(r'^(name|version|checksum) = "([^"]*)"', block, re.MULTILINE))
        if "checksum" in fields:
            found[fields["name"], fields["version"]] = fields["checksum"]
    return found


def reach(nodes, root, kinds):
    """Ids of the packages that `root` depends on through dependencies of these kinds."""
    reached, waiting = set(), [root]
    while waiting:
        identity = waiting.pop()
        if identity in reached:
            continue
        reached.add(identity)
        for dependency in nodes[identity]["deps"]:
            if any(kind["kind"] in kinds for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return reached


def crates():
    """The program, its crates, and what each depends on."""
    host = re.search(r"^host: (.*)$", output("rustc", "-vV"), re.MULTILINE).group(1)
    metadata = json.loads(
        output("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={host}")
    )
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    linked = reach(nodes, root, {None})
    all_of_them = reach(nodes, root, {None, "build"})
    hashes = checksums()
    reference = {
        package["id"]: f"pkg:cargo/{package['name']}@{package['version']}" for package in metadata["packages"]
    }
    components = {}
    for package in metadata["packages"]:
        if package["id"] not in all_of_them:
            continue
        component = {
            "type": "application" if package["id"] == root else "library",
            "bom-ref": reference[package["id"]],
            "name": package["name"],
            "version": package["version"],
            "purl": reference[package["id"]],
            "scope": "required" if package["id"] in linked else "excluded",
        }
        if package.get("license"):
            # Old crates write a slash for "or".
            expression = package["license"].replace("/", " OR ")
            component["licenses"] = [{"expression": expression}]
        checksum = hashes.get((package["name"], package["version"]))
        if checksum:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        components[package["id"]] = component
    dependencies = [
        {
            "ref": reference[identity],
            "dependsOn": sorted(
                {
                    reference[dependency["pkg"]]
                    for dependency in nodes[identity]["deps"]
                    if dependency["pkg"] in all_of_them
                    and any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
                }
            ),
        }
        for identity in sorted(all_of_them, key=reference.get)
    ]
    program = components.pop(root)
    del program["scope"]
    return program, sorted(components.values(), key=lambda component: component["purl"]), dependencies


def debian(names):
    """Installed Debian packages as components."""
    for name in names:
        listed = output("dpkg-query", "--show", "--showformat", "${Version} ${Architecture}", name)
        version, architecture = listed.split()
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main():
    program, components, dependencies = crates()
    components.extend(debian(sys.argv[1:]))
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
        "dependencies": dependencies,
    }
    # From the contents, so that the same input gives the same image.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))
    bom["serialNumber"] = f"urn:uuid:{serial}"
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
