"""Checks of tests/deploy.sh that need a YAML parser: deploy_checks.py CHECK FILE…"""

import json
import pathlib
import re
import sys

import yaml


def objects(path):
    return [found for found in yaml.safe_load_all(pathlib.Path(path).read_text()) if found]


def fail(text):
    raise SystemExit(f"error: {text}")


def settings():
    """The variables that docs/settings.md lists."""
    return set(re.findall(r"^\| `([A-Z0-9_]+)` ", pathlib.Path("docs/settings.md").read_text(), re.MULTILINE))


def check_container(container, pod):
    """The program's container: settings that exist, ports and mounts that fit, nothing that a cluster forbids."""
    known = settings()
    names = [variable["name"] for variable in container["env"]]
    for name in names:
        if name not in known:
            fail(f"{name} is no setting")
        if names.count(name) != 1:
            fail(f"{name} is set twice")
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        if get["port"] not in ports:
            fail(f"{probe} names the port {get['port']}")
        path = "/readyz" if probe == "readinessProbe" else "/livez"
        if get["path"] != path:
            fail(f"{probe} asks for {get['path']}, not {path}")
    volumes = {volume["name"] for volume in pod.get("volumes") or []}
    mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts") or []}
    if set(mounts) != volumes:
        fail(f"mounts {sorted(mounts)} and volumes {sorted(volumes)} differ")
    for variable in container["env"]:
        value = variable.get("value", "")
        if value.startswith("/") and not any(value.startswith(path) for path in mounts.values()):
            fail(f"{variable['name']}={value} lies in no volume")
    security = container["securityContext"]
    if security["allowPrivilegeEscalation"] or not security["readOnlyRootFilesystem"]:
        fail("the container has privileges")
    if security["capabilities"] != {"drop": ["ALL"]}:
        fail("the container has capabilities")
    if not pod["securityContext"]["runAsNonRoot"] or pod["automountServiceAccountToken"]:
        fail("the pod runs as root, or has a token")
    seconds = {}
    for variable in container["env"]:
        if variable["name"] in ("SHUTDOWN_DELAY", "SHUTDOWN_TIMEOUT"):
            seconds[variable["name"]] = int(variable["value"].removesuffix("s"))
    if sum(seconds.values()) >= pod["terminationGracePeriodSeconds"]:
        fail(f"the kubelet kills the pod before {seconds} are over")


def check_objects(path):
    """Services, budgets and autoscalers select the pods, and name ports that they have."""
    found = objects(path)
    deployments = [item for item in found if item["kind"] == "Deployment"]
    checked = 0
    for deployment in deployments:
        template = deployment["spec"]["template"]
        pod = template["spec"]
        for container in (found for found in pod["containers"] if found["name"] == "tollgate"):
            check_container(container, pod)
            checked += 1
        labels = template["metadata"]["labels"]
        selector = deployment["spec"]["selector"]["matchLabels"]
        if not selector or not selector.items() <= labels.items():
            fail(f"{deployment['metadata']['name']} does not select its own pods")
    if checked != 1:
        fail(f"{path} has {checked} deployments of tollgate")
    for item in found:
        spec = item.get("spec") or {}
        name = f"{item['kind']} {item['metadata']['name']}"
        selector = spec.get("selector")
        if item["kind"] == "PodDisruptionBudget":
            selector = selector["matchLabels"]
        if item["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        if item["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selected = [
                deployment
                for deployment in deployments
                if selector and selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
            ]
            if len(selected) != 1:
                fail(f"{name} selects {len(selected)} deployments")
            if item["kind"] == "Service":
                containers = selected[0]["spec"]["template"]["spec"]["containers"]
                ports = {port["name"] for container in containers for port in container["ports"]}
                for port in spec["ports"]:
                    if port.get("targetPort", port["name"]) not in ports:
                        fail(f"{name}: no container has the port {port}")
        if item["kind"] == "HorizontalPodAutoscaler":
            if any("replicas" in deployment["spec"] for deployment in deployments):
                fail(f"{name}: the deployment's replicas would undo what it does")


def extract(path, rules, alerts):
    """Writes the rule files of ConfigMaps into a folder, and the groups of a PrometheusRule into a file."""
    folder = pathlib.Path(rules)
    folder.mkdir()
    for item in objects(path):
        if item["kind"] == "ConfigMap":
            for name, text in item["data"].items():
                (folder / name).write_text(text)
        if item["kind"] == "PrometheusRule":
            pathlib.Path(alerts).write_text(yaml.safe_dump({"groups": item["spec"]["groups"]}))


def upgrade(before, after):
    """Nothing that Kubernetes forbids to change differs between two renderings of the chart."""
    old = {(item["kind"], item["metadata"]["name"]): item for item in objects(before)}
    common = 0
    for item in objects(after):
        name = (item["kind"], item["metadata"]["name"])
        known = old.get(name)
        if not known:
            continue
        common += 1
        if known["apiVersion"] != item["apiVersion"]:
            fail(f"{name} changes its apiVersion")
        if item["kind"] == "Deployment" and known["spec"]["selector"] != item["spec"]["selector"]:
            fail(f"{name} changes its selector")
        if item["kind"] == "Service" and known["spec"].get("clusterIP") != item["spec"].get("clusterIP"):
            fail(f"{name} changes its clusterIP")
    if common < 4:
        fail(f"{before} and {after} have only {common} objects in common")


def same_rules(rendered, folder):
    """The chart renders the rules of deploy/prometheus, with labels of its own in the selectors."""
    groups = objects(rendered)[0]["groups"]
    selectors = set(re.findall(r'namespace="[^"]*",service="[^"]*"', yaml.safe_dump(groups, width=10**6)))
    if len(selectors) != 1:
        fail(f"the chart's rules have the selectors {selectors}")
    text = yaml.safe_dump([group["rules"] for group in groups], width=10**6)
    text = text.replace(selectors.pop(), 'job="tollgate"')
    expected = [
        group["rules"]
        for name in ("rules", "alerts")
        for group in objects(pathlib.Path(folder) / f"{name}.yaml")[0]["groups"]
    ]
    if yaml.safe_load(text) != expected:
        fail("the chart's rules differ from those in deploy/prometheus")


def expressions(path, *boards):
    """Writes every expression of dashboards into a file of rules, for promtool to parse."""
    found = []
    for board in boards:
        content = json.loads(pathlib.Path(board).read_text())
        found += [note["expr"] for note in content["annotations"]["list"] if "expr" in note]
        found += [target["expr"] for panel in content["panels"] for target in panel.get("targets", [])]
    if len(found) < 20:
        fail(f"{boards} have {len(found)} expressions")
    rules = [
        {"record": f"expression:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(found)
    ]
    pathlib.Path(path).write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))


def boards(*paths):
    """Dashboards have the form of Grafana's own models, which drop every field that they do not know."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    def lost(ours, read, place):
        if isinstance(ours, dict):
            for name, value in ours.items():
                if value is not None and name not in read:
                    fail(f"{place}: Grafana does not know {name}")
                lost(value, read.get(name), f"{place}.{name}")
        elif isinstance(ours, list):
            for number, value in enumerate(ours):
                lost(value, read[number], f"{place}[{number}]")

    register_default_plugins()
    for path in paths:
        content = json.loads(pathlib.Path(path).read_text())
        read = json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder))
        lost(content, read, path)


def blocks(path, language, folder):
    """Writes the code blocks of a document in this language into a folder, in their order."""
    shown = re.findall(rf"^```{language}\n(.*?)^```", pathlib.Path(path).read_text(), re.MULTILINE | re.DOTALL)
    if not shown:
        fail(f"{path} shows no {language}")
    for number, text in enumerate(shown):
        (pathlib.Path(folder) / f"{number}.yaml").write_text(text)


def envoyfilter(path):
    """Prints a configuration of Envoy with what an EnvoyFilter puts into it."""
    patches = {patch["applyTo"]: patch["patch"]["value"] for patch in objects(path)[0]["spec"]["configPatches"]}
    filter_ = patches["HTTP_FILTER"]
    cluster = filter_["typed_config"]["rate_limit_service"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    http = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    manager = (
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    )
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
        **patches["VIRTUAL_HOST"],
    }
    connection = {
        "@type": manager,
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [filter_, {"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
    }
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection}]}
        ],
    }
    protocol = {"@type": http, "explicit_http_config": {"http2_protocol_options": {}}}
    tollgate = {
        "name": cluster,
        "type": "STATIC",
        "typed_extension_protocol_options": {http.removeprefix("type.googleapis.com/"): protocol},
        "load_assignment": {"cluster_name": cluster},
    }
    print(yaml.safe_dump({"static_resources": {"listeners": [listener], "clusters": [tollgate]}}))


def compose(path):
    """Settings in the file exist, and what it mounts is there."""
    project = objects(path)[0]
    for name in project["services"]["tollgate"]["environment"]:
        if name not in settings():
            fail(f"{path}: {name} is no setting")
    base = pathlib.Path(path).parent
    for service in project["services"].values():
        for volume in service.get("volumes", []):
            if not (base / volume.split(":")[0]).exists():
                fail(f"{path}: {volume} is not there")
    build = project["services"]["tollgate"]["build"]
    if not (base / build["context"] / build["dockerfile"]).is_file():
        fail(f"{path}: {build} is not there")


def sbom(path):
    """The bill of materials is valid CycloneDX."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(pathlib.Path(path).read_text())
    if error:
        fail(f"{path}: {error.data}")


CHECKS = {
    "objects": check_objects,
    "extract": extract,
    "upgrade": upgrade,
    "same_rules": same_rules,
    "expressions": expressions,
    "boards": boards,
    "blocks": blocks,
    "envoyfilter": envoyfilter,
    "compose": compose,
    "sbom": sbom,
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
