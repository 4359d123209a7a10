{{/* The program that speaks HTTP: its flags, probes, volumes. */}}

{{/* "true" for a pod with mirl-serve in it that clients reach. Takes (dict "root" $ "component" NAME). */}}
{{- define "mirl.isFront" -}}
{{- if or (eq .component "gateway") (eq .root.Values.mode "engine") -}}true{{- end -}}
{{- end -}}

{{/* Flags of a server that clients reach. */}}
{{- define "mirl.frontArgs" -}}
- --host={{ .Values.server.host }}
- --port={{ .Values.server.port }}
- --shutdown-seconds={{ .Values.server.shutdownSeconds }}
- --log-format=json
{{- if .Values.server.settings }}
- --config=/etc/mirl/settings/config.yaml
{{- end }}
{{- if include "mirl.keySecret" . }}
- --api-key-file=/etc/mirl/keys/{{ .Values.keys.key }}
{{- end }}
{{- if .Values.server.tls.secretName }}
- --ssl-certfile=/etc/mirl/tls/tls.crt
- --ssl-keyfile=/etc/mirl/tls/tls.key
{{- end }}
{{- end -}}

{{/* Flags of vLLM's engine. */}}
{{- define "mirl.engineArgs" -}}
{{- with .Values.model.servedName }}
- --served-model-name={{ . }}
{{- end }}
{{- if gt (int .Values.engine.gpu.count) 1 }}
- --tensor-parallel-size={{ .Values.engine.gpu.count }}
{{- end }}
{{- if eq .Values.mode "fleet" }}
{{- if eq .Values.gateway.engineMode "tokens" }}
- --enable-scale-out
{{- end }}
- --host={{ .Values.server.host }}
- --port={{ .Values.server.port }}
{{- if eq .Values.engine.program "vllm" }}
- --shutdown-timeout={{ ceil .Values.server.shutdownSeconds }}
{{- else }}
- --shutdown-seconds={{ .Values.server.shutdownSeconds }}
- --log-format=json
{{- end }}
{{- end }}
{{- range .Values.engine.args }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Probes. Takes (dict "root" $ "ready" PATH "startupSeconds" SECONDS "scheme" SCHEME). */}}
{{- define "mirl.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http, scheme: {{ .scheme }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ ceil (divf .startupSeconds 5) }}
readinessProbe:
  httpGet: {path: {{ .ready }}, port: http, scheme: {{ .scheme }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /health, port: http, scheme: {{ .scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- if gt (int .root.Values.server.preStopSeconds) 0 }}
lifecycle:
  preStop:
    # A server without requests ends at once: the endpoints forget it first.
    sleep: {seconds: {{ .root.Values.server.preStopSeconds }}}
{{- end }}
{{- end -}}

{{- define "mirl.scheme" -}}
{{- if .Values.server.tls.secretName }}HTTPS{{ else }}HTTP{{ end -}}
{{- end -}}

{{/* Files of a server that clients reach: settings, keys, certificate. */}}
{{- define "mirl.frontMounts" -}}
{{- if .Values.server.settings }}
- {name: settings, mountPath: /etc/mirl/settings, readOnly: true}
{{- end }}
{{- if include "mirl.keySecret" . }}
- {name: keys, mountPath: /etc/mirl/keys, readOnly: true}
{{- end }}
{{- if .Values.server.tls.secretName }}
- {name: tls, mountPath: /etc/mirl/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "mirl.frontVolumes" -}}
{{- if .Values.server.settings }}
- name: settings
  configMap: {name: {{ include "mirl.fullname" . }}-settings}
{{- end }}
{{- with include "mirl.keySecret" . }}
- name: keys
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.server.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* Annotations of a pod: a change of its settings starts it again. Keys are read again without that. */}}
{{- define "mirl.podAnnotations" -}}
{{- $annotations := deepCopy .annotations -}}
{{- if and (include "mirl.isFront" .) .root.Values.server.settings -}}
{{- $_ := set $annotations "checksum/settings" (toYaml .root.Values.server.settings | sha256sum) -}}
{{- end -}}
{{- if $annotations }}
annotations:
  {{- toYaml $annotations | nindent 2 }}
{{- end }}
{{- end -}}
