{{/* A Job. Takes (dict "root" $ "name" NAME "job" VALUES "command" LIST "mounts" YAML "volumes" YAML). */}}
{{- define "mirl.job" -}}
{{- $root := .root -}}
{{- $job := .job -}}
{{- $labels := dict "root" $root "component" "job" -}}
{{- $resource := $root.Values.engine.gpu.resource -}}
{{- $claim := and $job.storage (or $job.storage.existingClaim $job.storage.size) -}}
{{- $fullname := printf "%s-%s" (include "mirl.fullname" $root) .name -}}
apiVersion: batch/v1
kind: Job
metadata:
  # A Job cannot be changed, so other values make another one.
  name: {{ $fullname }}-{{ toJson (dict "job" $job "chart" $root.Chart.Version "security" $root.Values.podSecurity) | sha256sum | trunc 8 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "mirl.objectLabels" $labels | nindent 4 }}
spec:
  backoffLimit: {{ $job.backoffLimit }}
  podFailurePolicy:
    rules:
      # Bad input stays bad.
      - action: FailJob
        onExitCodes: {containerName: {{ .name }}, operator: In, values: [2]}
      # Drained, preempted, evicted: the next pod continues, and it is no failure.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    metadata:
      labels:
        {{- include "mirl.podLabels" $labels | nindent 8 }}
    spec:
      {{- include "mirl.podStart" $root | nindent 6 }}
      restartPolicy: Never
      terminationGracePeriodSeconds: {{ $job.terminationGracePeriodSeconds }}
      {{- include "mirl.placement" (dict "root" $root "place" $job "gpus" $job.gpus) | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "mirl.image" (dict "root" $root "image" $job.image) }}
          imagePullPolicy: {{ $job.image.pullPolicy }}
          command: {{ toJson .command }}
          args: {{ toJson .args }}
          env:
            {{- include "mirl.cacheEnv" $root | nindent 12 }}
            {{- with $job.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          resources:
            {{- include "mirl.resources" (dict "resources" $job.resources "gpus" $job.gpus "resource" $resource) | nindent 12 }}
          securityContext:
            {{- include "mirl.containerSecurity" (dict "readOnlyRoot" $root.Values.engine.readOnlyRoot) | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: shm, mountPath: /dev/shm}
            - {name: cache, mountPath: /cache}
            - {name: runs, mountPath: /runs}
            {{- include "mirl.hubMount" $root | nindent 12 }}
            {{- if .recipe }}
            - {name: recipe, mountPath: /etc/mirl/recipe, readOnly: true}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: {{ $root.Values.engine.sharedMemory }}}
        - name: cache
          emptyDir: {}
        - name: runs
          {{- if $claim }}
          persistentVolumeClaim: {claimName: {{ default $fullname $job.storage.existingClaim }}}
          {{- else }}
          emptyDir: {}
          {{- end }}
        {{- include "mirl.hubVolume" $root | nindent 8 }}
        {{- if .recipe }}
        - name: recipe
          configMap: {name: {{ $fullname }}}
        {{- end }}
{{- if and $claim (not $job.storage.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $fullname }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "mirl.objectLabels" $labels | nindent 4 }}
  annotations:
    # Results outlive the release.
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with $job.storage.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ $job.storage.size }}}
{{- end }}
{{- end -}}
