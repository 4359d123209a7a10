{{/* The component whose metrics say how much waits: the server that clients reach. */}}
{{- define "mirl.scaledName" -}}
{{- if eq .Values.mode "fleet" }}{{ include "mirl.enginesName" . }}{{ else }}{{ include "mirl.fullname" . }}{{ end -}}
{{- end -}}

{{- define "mirl.scaledKind" -}}
{{- if eq .Values.mode "fleet" }}StatefulSet{{ else }}Deployment{{ end -}}
{{- end -}}

{{/* One replica at a time goes, after some time without load: a drain takes terminationGracePeriodSeconds. */}}
{{- define "mirl.scaleBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: {{ max 60 (include "mirl.graceSeconds" . | int) }}}
{{- end -}}
