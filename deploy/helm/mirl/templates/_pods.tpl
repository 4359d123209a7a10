{{/* What all pods have in common. */}}

{{- define "mirl.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.podSecurity }}
{{- if not (kindIs "invalid" .runAsUser) }}
runAsUser: {{ .runAsUser }}
{{- end }}
{{- if not (kindIs "invalid" .runAsGroup) }}
runAsGroup: {{ .runAsGroup }}
{{- end }}
{{- if not (kindIs "invalid" .fsGroup) }}
fsGroup: {{ .fsGroup }}
# A cache of 100 GB is not walked through at every start.
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Takes (dict "readOnlyRoot" BOOL). */}}
{{- define "mirl.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: {{ .readOnlyRoot }}
runAsNonRoot: true
{{- end -}}

{{/* The beginning of a pod's spec: account, security, registries. */}}
{{- define "mirl.podStart" -}}
serviceAccountName: {{ include "mirl.serviceAccountName" . }}
# No pod speaks to Kubernetes.
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "mirl.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where pods run. Takes (dict "root" $ "component" NAME "place" VALUES "gpus" COUNT). */}}
{{- define "mirl.placement" -}}
{{- with .place.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .place.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .place.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .place.tolerations .gpus }}
tolerations:
  {{- if .gpus }}
  - key: {{ .root.Values.engine.gpu.resource }}
    operator: Exists
    effect: NoSchedule
  {{- end }}
  {{- with .place.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "mirl.spread" -}}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range .root.Values.topologySpread.keys }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "mirl.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Requests and limits with the GPUs among them. Takes (dict "resources" R "gpus" COUNT "resource" NAME). */}}
{{- define "mirl.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpus -}}
{{- $_ := set $resources "limits" (set (default (dict) $resources.limits) .resource .gpus) -}}
{{- $_ := set $resources "requests" (set (default (dict) $resources.requests) .resource .gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Seconds from a stop signal until Kubernetes kills: see server.shutdownSeconds in values.yaml. */}}
{{- define "mirl.graceSeconds" -}}
{{- add .Values.server.preStopSeconds (ceil .Values.server.shutdownSeconds) 12 -}}
{{- end -}}

{{/* A hub's files, under /cache. */}}
{{- define "mirl.hubEnv" -}}
- name: HOME
  value: /tmp
- name: XDG_CACHE_HOME
  value: /cache
- name: HF_HOME
  value: /cache/huggingface
{{- if .Values.model.hubToken.secretName }}
- name: HF_TOKEN_PATH
  value: /etc/mirl/hub/token
{{- end }}
{{- end -}}

{{- define "mirl.hubMount" -}}
{{- if .Values.model.hubToken.secretName }}
- {name: hub, mountPath: /etc/mirl/hub, readOnly: true}
{{- end }}
{{- end -}}

{{- define "mirl.hubVolume" -}}
{{- with .Values.model.hubToken }}
{{- if .secretName }}
- name: hub
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items: [{key: {{ .key }}, path: token}]
{{- end }}
{{- end }}
{{- end -}}

{{/* Writable folders for a read-only root. */}}
{{- define "mirl.cacheEnv" -}}
{{ include "mirl.hubEnv" . }}
- name: VLLM_CACHE_ROOT
  value: /cache/vllm
- name: TRITON_CACHE_DIR
  value: /cache/triton
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/torchinductor
{{- end -}}
