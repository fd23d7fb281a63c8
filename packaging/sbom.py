#!/usr/bin/env python3
"""What of others is in the program, as CycloneDX 1.5 JSON: every crate that is linked on a system, with its
version, licence, digest and what it needs in turn. Read from cargo and Cargo.lock, so that nothing has to be
built for it, and free of paths of the machine it was made on.

    packaging/sbom.py --target x86_64-unknown-linux-gnu --out FILE [--licences FILE]

--licences writes the texts of their licences, which go along with the program.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import tomllib
import uuid


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target):
    """The packages in the program: not those of tests, nor those that only build it."""
    tree = cargo("tree", "--locked", "--target", target, "--edges", "normal,no-proc-macro",
                 "--prefix", "none", "--format", "{p}")
    return {tuple(match.groups()) for match in re.finditer(r"^(\S+) v(\S+)", tree, re.MULTILINE)}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, digests):
    registered = package["source"] is not None
    entry = {
        "type": "library" if registered else "application",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "scope": "required",
        "purl": purl(package),
    }
    if package["description"]:
        entry["description"] = " ".join(package["description"].split())
    digest = digests.get((package["name"], package["version"]))
    if digest:
        entry["hashes"] = [{"alg": "SHA-256", "content": digest}]
    if package["license"]:
        # Older crates write "MIT/Apache-2.0" for "OR".
        entry["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    elif package["license_file"]:
        entry["licenses"] = [{"license": {"name": f"see the crate's {os.path.basename(package['license_file'])}"}}]
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def licence_texts(packages):
    """Every text once, with the crates it is of."""
    texts = {}
    for package in packages:
        folder = pathlib.Path(package["manifest_path"]).parent
        files = [f for f in sorted(folder.iterdir())
                 if f.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|unlicense)", f.name)]
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip()
            texts.setdefault(text, set()).add(f"{package['name']} {package['version']}")
        if not files:
            # Their licence is a well-known one, named in their manifest alone.
            texts.setdefault(f"(no text in the crate; licence {package['license']})", set()).add(
                f"{package['name']} {package['version']} ({', '.join(package['authors']) or 'no authors named'})")
    parts = ["What of others is in rezcache, and under which licences. Rust's standard library is in it too:\n"
             "MIT or Apache-2.0, the Rust project's developers.\n"]
    for text, names in sorted(texts.items(), key=lambda item: sorted(item[1])):
        parts.append("=" * 78 + "\n" + "\n".join(sorted(names)) + "\n" + "-" * 78 + f"\n{text}\n")
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--licences")
    arguments = parser.parse_args()

    wanted = linked(arguments.target)
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1",
                                "--filter-platform", arguments.target))
    with open("Cargo.lock", "rb") as lock:
        digests = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    packages = {p["id"]: p for p in metadata["packages"] if (p["name"], p["version"]) in wanted}
    root = metadata["resolve"]["root"]
    dependencies = []
    for node in metadata["resolve"]["nodes"]:
        if node["id"] not in packages:
            continue
        needs = [d["pkg"] for d in node["deps"]
                 if d["pkg"] in packages and any(kind["kind"] is None for kind in d["dep_kinds"])]
        dependencies.append({"ref": purl(packages[node["id"]]), "dependsOn": sorted({purl(packages[n]) for n in needs})})

    when = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(packages[root], digests),
            "properties": [{"name": "rezcache:target", "value": arguments.target}],
        },
        "components": sorted((component(p, digests) for i, p in packages.items() if i != root),
                             key=lambda c: c["bom-ref"]),
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    # The same content has the same number.
    content = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    with open(arguments.out, "w", encoding="utf-8") as out:
        json.dump(bom, out, indent=1)
        out.write("\n")
    if arguments.licences:
        theirs = [p for i, p in packages.items() if i != root]
        pathlib.Path(arguments.licences).write_text(licence_texts(theirs), encoding="utf-8")


if __name__ == "__main__":
    main()
