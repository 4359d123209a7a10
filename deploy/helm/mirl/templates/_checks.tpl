{{/* What the schema cannot say, because it concerns several values. Each message names the value and the remedy. */}}
{{- define "mirl.check" -}}
{{- $values := .Values -}}
{{- if and (eq $values.mode "gateway") (not $values.gateway.engineUrls) -}}
{{- fail "gateway.engineUrls: mode gateway needs the URL of a vLLM server; for engines of this release set mode: fleet" -}}
{{- end -}}
{{- if and (ne $values.mode "gateway") $values.gateway.engineUrls -}}
{{- fail (printf "gateway.engineUrls: mode %s does not use it; set mode: gateway" $values.mode) -}}
{{- end -}}
{{- if and (eq $values.engine.program "vllm") (ne $values.mode "fleet") -}}
{{- fail (printf "engine.program: vllm has no routes of MIRL, so mode %s cannot use it; set mode: fleet or engine.program: mirl-serve" $values.mode) -}}
{{- end -}}
{{- if and (eq $values.engine.program "vllm") (not $values.model.name) -}}
{{- fail "model.name: vllm serve needs a model; only mirl-serve has a bundled one" -}}
{{- end -}}
{{- if and $values.gateway.engineKey.secretName (ne $values.mode "gateway") -}}
{{- fail (printf "gateway.engineKey.secretName: the engines of mode %s take no key, the NetworkPolicy guards them" $values.mode) -}}
{{- end -}}
{{- if and $values.keys.existingSecret $values.keys.values -}}
{{- fail "keys.values: keys.existingSecret is set too; keep one of them" -}}
{{- end -}}
{{- if and (ne $values.autoscaling.kind "none") (not (has $values.mode (list "engine" "fleet"))) -}}
{{- fail (printf "autoscaling.kind: mode %s has no engines to scale; scale them where they are installed, and the gateway by gateway.autoscaling" $values.mode) -}}
{{- end -}}
{{- if gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas: is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if gt (int $values.gateway.autoscaling.minReplicas) (int $values.gateway.autoscaling.maxReplicas) -}}
{{- fail "gateway.autoscaling.minReplicas: is above gateway.autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $values.serviceMonitor.enabled (include "mirl.keySecret" .) (not $values.serviceMonitor.keySecret.name) (not (has "/metrics" (dig "access" "open_paths" (list) $values.server.settings))) -}}
{{- fail "serviceMonitor.keySecret.name: with API keys /metrics needs one; name a Secret, or add /metrics to server.settings.access.open_paths" -}}
{{- end -}}
{{- $several := or (gt (int $values.engine.replicas) 1) (and (ne $values.autoscaling.kind "none") (gt (int $values.autoscaling.maxReplicas) 1)) -}}
{{- if and $several $values.cache.persistent (or (eq $values.mode "engine") $values.cache.existingClaim) (not (has "ReadWriteMany" $values.cache.accessModes)) -}}
{{- fail "cache.accessModes: several engine pods share the claim, so it needs ReadWriteMany; or set mode: fleet without cache.existingClaim, where each has its own" -}}
{{- end -}}
{{- range $values.engine.env -}}
{{- if eq .name "VLLM_SERVER_DEV_MODE" -}}
{{- fail "engine.env: VLLM_SERVER_DEV_MODE opens vLLM's administration to everybody who reaches the server; servers for training are described in deploy/training/README.md" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.mode "jobs") (not $values.jobs.train.enabled) (not $values.jobs.eval.enabled) -}}
{{- fail "jobs: mode jobs needs jobs.train.enabled or jobs.eval.enabled" -}}
{{- end -}}
{{- if and $values.jobs.train.enabled (not $values.jobs.train.recipe) -}}
{{- fail "jobs.train.recipe: mirl-train needs a recipe" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: names no Gateway" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: names no host" -}}
{{- end -}}
{{- end -}}
