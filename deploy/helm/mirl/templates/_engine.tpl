{{/* The pod that runs vLLM, of the Deployment in mode engine and of the StatefulSet in mode fleet. */}}
{{- define "mirl.enginePod" -}}
{{- $engine := .Values.engine -}}
{{- $alone := eq .Values.mode "engine" -}}
{{- $labels := dict "root" $ "component" "engine" -}}
{{- $downloads := include "mirl.usesHub" . -}}
metadata:
  labels:
    {{- include "mirl.podLabels" $labels | nindent 4 }}
  {{- include "mirl.podAnnotations" (dict "root" $ "component" "engine" "annotations" $engine.podAnnotations) | nindent 2 }}
spec:
  {{- include "mirl.podStart" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "mirl.graceSeconds" . }}
  {{- with $engine.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- include "mirl.placement" (dict "root" $ "place" $engine "gpus" $engine.gpu.count) | nindent 2 }}
  {{- include "mirl.spread" $labels | nindent 2 }}
  containers:
    - name: engine
      image: {{ include "mirl.image" (dict "root" $ "image" $engine.image) }}
      imagePullPolicy: {{ $engine.image.pullPolicy }}
      command: {{ ternary (list "vllm" "serve") (list "mirl-serve") (eq $engine.program "vllm") | toJson }}
      args:
        {{- with .Values.model.name }}
        - {{ . | quote }}
        {{- end }}
        {{- if $alone }}
        {{- include "mirl.frontArgs" . | nindent 8 }}
        {{- end }}
        {{- include "mirl.engineArgs" . | trim | nindent 8 }}
      env:
        {{- include "mirl.cacheEnv" . | nindent 8 }}
        {{- if not $downloads }}
        - name: HF_HUB_OFFLINE
          value: "1"
        {{- end }}
        {{- with $engine.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: http, containerPort: {{ .Values.server.port }}, protocol: TCP}
      {{- include "mirl.probes" (dict "root" $ "ready" (ternary "/health" "/ready" (eq $engine.program "vllm")) "startupSeconds" $engine.startupSeconds "scheme" (ternary (include "mirl.scheme" .) "HTTP" $alone)) | nindent 6 }}
      resources:
        {{- include "mirl.resources" (dict "resources" $engine.resources "gpus" $engine.gpu.count "resource" $engine.gpu.resource) | nindent 8 }}
      securityContext:
        {{- include "mirl.containerSecurity" (dict "readOnlyRoot" $engine.readOnlyRoot) | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: cache, mountPath: /cache}
        {{- include "mirl.hubMount" . | nindent 8 }}
        {{- if $alone }}
        {{- include "mirl.frontMounts" . | nindent 8 }}
        {{- end }}
        {{- with $engine.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $engine.sharedMemory }}}
    {{- if not (and .Values.cache.persistent (not $alone) (not .Values.cache.existingClaim)) }}
    - name: cache
      {{- if .Values.cache.persistent }}
      persistentVolumeClaim: {claimName: {{ default (printf "%s-cache" (include "mirl.fullname" .)) .Values.cache.existingClaim }}}
      {{- else }}
      emptyDir: {}
      {{- end }}
    {{- end }}
    {{- include "mirl.hubVolume" . | nindent 4 }}
    {{- if $alone }}
    {{- include "mirl.frontVolumes" . | nindent 4 }}
    {{- end }}
    {{- with $engine.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
