"""What the rendered objects do: security, drain, references between them, network, scaling."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.chart.helm import CHART, WORKLOADS, Helm, Object, changed, example, of_kind, pods
from tests.deploy.chart.validation import OLDEST

pytestmark = pytest.mark.full

Answers = dict[str, dict[str, Any]]


def releases(answers: Answers) -> list[list[Object]]:
    return [answer["objects"] for answer in answers.values()]


def labels_of(item: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = item["spec"]["template"]["metadata"]["labels"]
    return labels


def selected(objects: list[Object], selector: dict[str, str]) -> list[Object]:
    """Return the workloads whose pods a selector selects."""
    return [item for item in of_kind(objects, *WORKLOADS) if selector.items() <= labels_of(item).items()]


def by_name(objects: list[Object], kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in of_kind(objects, kind)}


def test_all_pods_meet_the_restricted_standard(answers: Answers) -> None:
    for objects in releases(answers):
        for pod in pods(objects):
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not any("hostPath" in volume for volume in pod["volumes"])
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                }


def test_platforms_may_choose_the_user(answers: Answers) -> None:
    for pod in pods(answers["openshift"]["objects"]):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
    for pod in pods(answers["cpu-demo"]["objects"]):
        assert pod["securityContext"]["runAsUser"] > 10_000


@pytest.mark.parametrize(("shutdown", "pre_stop"), [(0, 0), (20, 5), (0.5, 3), (600, 30)])
def test_the_grace_covers_the_drain(helm: Helm, shutdown: float, pre_stop: int) -> None:
    values = changed(example("fleet"), "server.shutdownSeconds", shutdown)
    values = changed(values, "server.preStopSeconds", pre_stop)
    for pod in pods(helm.objects(values)):
        # The server ends at most 8 s after --shutdown-seconds (docs/serving.md).
        assert pod["terminationGracePeriodSeconds"] >= pre_stop + shutdown + 8
        assert pod["terminationGracePeriodSeconds"] <= pre_stop + shutdown + 14
        container = pod["containers"][0]
        assert f"--shutdown-seconds={shutdown}" in container["args"]
        sleeps = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert sleeps == pre_stop


def test_probes(answers: Answers) -> None:
    for objects in releases(answers):
        for item in of_kind(objects, "Deployment", "StatefulSet"):
            container = item["spec"]["template"]["spec"]["containers"][0]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert f"--port={ports['http']}" in container["args"]
            probes = ("startup", "readiness", "liveness")
            paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in probes}
            assert paths == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
            tls = any(text.startswith("--ssl-keyfile") for text in container["args"])
            assert container["readinessProbe"]["httpGet"]["scheme"] == ("HTTPS" if tls else "HTTP")


def test_vllm_itself_has_no_path_ready(helm: Helm) -> None:
    objects = helm.objects(changed(example("fleet"), "engine.program", "vllm"))
    container = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["vllm", "serve"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert "--shutdown-timeout=20" in container["args"]


def test_every_reference_leads_somewhere(answers: Answers) -> None:
    outside = {
        "mirl-keys", "hub-token", "mirl-gateway-tls", "vllm-key", "models", "mirl-metrics-key", "mirl-tls",
    }  # fmt: skip
    for objects in releases(answers):
        names = {(item["kind"], item["metadata"]["name"]) for item in objects}
        for pod in pods(objects):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            claims = {
                claim["metadata"]["name"]
                for item in of_kind(objects, "StatefulSet")
                for claim in item["spec"].get("volumeClaimTemplates", [])
            }
            for container in pod["containers"]:
                mounts = [mount["name"] for mount in container["volumeMounts"]]
                assert len(set(mounts)) == len(mounts)
                assert set(volumes) <= set(mounts) <= set(volumes) | claims
            assert ("ServiceAccount", pod["serviceAccountName"]) in names
            for volume in volumes.values():
                for kind, source, key in (
                    ("ConfigMap", "configMap", "name"),
                    ("Secret", "secret", "secretName"),
                    ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
                ):
                    if source in volume:
                        assert (kind, volume[source][key]) in names or volume[source][key] in outside


def test_selectors_select_one_workload(answers: Answers) -> None:
    for objects in releases(answers):
        for item in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert len(selected(objects, item["spec"]["selector"]["matchLabels"])) == 1
        for item in of_kind(objects, "Service"):
            assert len(selected(objects, item["spec"]["selector"])) == 1
        for item in of_kind(objects, "NetworkPolicy"):
            assert selected(objects, item["spec"]["podSelector"]["matchLabels"])
        for item in of_kind(objects, "ServiceMonitor"):
            wanted = item["spec"]["selector"]["matchLabels"].items()
            services = [
                service
                for service in of_kind(objects, "Service")
                if wanted <= service["metadata"]["labels"].items()
            ]
            assert len(services) == 1
            ports = {port["name"] for port in services[0]["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in item["spec"]["endpoints"]} <= ports
        for item in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
            target = item["spec"]["scaleTargetRef"]
            scaled = by_name(objects, target["kind"])[target["name"]]
            # A number here would undo what the autoscaler did, at every upgrade.
            assert "replicas" not in scaled["spec"]


def test_only_the_server_s_port_is_open(answers: Answers) -> None:
    """Ports for weights (NCCL), for vLLM's own processes and for anything else are closed for all pods."""
    for objects in releases(answers):
        covered: list[str] = []
        for policy in of_kind(objects, "NetworkPolicy"):
            spec = policy["spec"]
            assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
            workloads = selected(objects, spec["podSelector"]["matchLabels"])
            covered += [item["metadata"]["name"] for item in workloads]
            for rule in spec.get("ingress", []):
                assert [port["port"] for port in rule["ports"]] == [8000]
            for rule in spec["egress"]:
                assert rule["ports"], "an egress rule opens every port"
            if all(item["kind"] == "Job" for item in workloads):
                assert "ingress" not in spec
        assert sorted(covered) == sorted(item["metadata"]["name"] for item in of_kind(objects, *WORKLOADS))


def test_engines_of_a_fleet_admit_the_gateway_and_monitoring_alone(answers: Answers) -> None:
    objects = answers["fleet"]["objects"]
    rules = by_name(objects, "NetworkPolicy")["mirl-engines"]["spec"]["ingress"]
    assert len(rules) == 1
    gateway, monitoring = rules[0]["from"]
    assert [
        item["metadata"]["name"] for item in selected(objects, gateway["podSelector"]["matchLabels"])
    ] == ["mirl"]
    assert "namespaceSelector" not in gateway
    assert monitoring == example("fleet")["networkPolicy"]["monitoring"][0]


@pytest.mark.parametrize(("private", "reached"), [(False, False), (True, True)])
def test_images_by_url_open_their_ports(helm: Helm, private: bool, reached: bool) -> None:
    closed = helm.objects(example("cpu-demo"))
    assert _public_rules(closed) == []
    images = {"allow_hosts": ["images.example.com"], "allow_private": private}
    opened = helm.objects(changed(example("cpu-demo"), "server.settings", {"images": images}))
    (rule,) = _public_rules(opened)
    assert [port["port"] for port in rule["ports"]] == [80, 443]
    exceptions = [cidr for peer in rule["to"] for cidr in peer["ipBlock"]["except"]]
    assert "169.254.0.0/16" in exceptions
    assert ("10.0.0.0/8" not in exceptions) == reached
    assert ("fc00::/7" not in exceptions) == reached


def _public_rules(objects: list[Object]) -> list[Any]:
    rules = [rule for item in of_kind(objects, "NetworkPolicy") for rule in item["spec"]["egress"]]
    return [rule for rule in rules if any("ipBlock" in peer for peer in rule.get("to", []))]


def test_the_gateway_s_engines_are_those_of_the_headless_service(answers: Answers) -> None:
    objects = answers["fleet"]["objects"]
    args = by_name(objects, "Deployment")["mirl"]["spec"]["template"]["spec"]["containers"][0]["args"]
    (url,) = [text.partition("=")[2] for text in args if text.startswith("--engine-url=")]
    service = by_name(objects, "Service")["mirl-engines"]
    engines = by_name(objects, "StatefulSet")["mirl-engines"]
    assert url == "http://mirl-engines.mirl-prod.svc:8000"
    assert service["spec"]["clusterIP"] == "None"
    assert engines["spec"]["serviceName"] == "mirl-engines"
    assert "--enable-scale-out" in engines["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--engine-mode=tokens" in args


def test_chat_mode_opens_no_routes_for_tokens(helm: Helm) -> None:
    objects = helm.objects(changed(example("fleet"), "gateway.engineMode", "chat"))
    args = [text for pod in pods(objects) for text in pod["containers"][0]["args"]]
    assert "--engine-mode=chat" in args
    assert "--enable-scale-out" not in args


@pytest.mark.parametrize("count", [0, 1, 4])
def test_gpus(helm: Helm, count: int) -> None:
    objects = helm.objects(changed(example("gpu-single"), "engine.gpu.count", count))
    (pod,) = pods(objects)
    container = pod["containers"][0]
    assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == count
    assert container["resources"]["requests"].get("nvidia.com/gpu", 0) == count
    assert bool(pod.get("tolerations")) == (count > 0)
    assert (f"--tensor-parallel-size={count}" in container["args"]) == (count > 1)


def test_a_change_of_settings_starts_the_pods_again(helm: Helm) -> None:
    def template(values: dict[str, Any]) -> Any:
        return of_kind(helm.objects(values), "Deployment")[0]["spec"]["template"]

    before = changed(example("cpu-demo"), "server.settings", {"admission": {"max_queue": 8}})
    after = changed(example("cpu-demo"), "server.settings", {"admission": {"max_queue": 9}})
    assert template(before) == template(before)
    assert template(before) != template(after)


def test_an_update_waits_for_no_claim_that_the_old_pod_has(helm: Helm) -> None:
    def strategy(modes: list[str]) -> Any:
        values = {"cache": {"persistent": True, "accessModes": modes}}
        return of_kind(helm.objects(values), "Deployment")[0]["spec"]["strategy"]["type"]

    assert strategy(["ReadWriteOnce"]) == "Recreate"
    assert strategy(["ReadWriteMany"]) == "RollingUpdate"


def test_a_changed_job_is_another_job(helm: Helm) -> None:
    def names(values: dict[str, Any]) -> list[str]:
        return [item["metadata"]["name"] for item in of_kind(helm.objects(values), "Job")]

    first, second = example("jobs"), changed(example("jobs"), "jobs.train.recipe.steps", 301)
    assert names(first) == names(first)
    assert len(set(names(first)) ^ set(names(second))) == 2


def test_the_chart_s_oldest_kubernetes_is_the_tested_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


def test_notes_warn_of_a_server_without_keys(answers: Answers) -> None:
    for name, answer in answers.items():
        keyless = name in ("defaults", "cpu-demo", "existing-service")
        assert ("No API keys" in answer["notes"]) == keyless, name
