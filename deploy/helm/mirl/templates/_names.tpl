{{/* Names, labels and images. */}}

{{- define "mirl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "mirl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "mirl.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mirl.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mirl.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels by which pods are selected. Takes (dict "root" $ "component" NAME). */}}
{{- define "mirl.selector" -}}
app.kubernetes.io/name: {{ include "mirl.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mirl.objectLabels" -}}
{{ include "mirl.selector" . }}
{{ include "mirl.labels" .root }}
{{- end -}}

{{/* Labels of pods: without the chart's version, so that a new chart alone starts no pod again. */}}
{{- define "mirl.podLabels" -}}
{{ include "mirl.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "image" IMAGE). */}}
{{- define "mirl.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "mirl.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mirl.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mirl.enginesName" -}}{{ include "mirl.fullname" . }}-engines{{- end -}}

{{- define "mirl.keySecret" -}}
{{- if .Values.keys.existingSecret -}}{{ .Values.keys.existingSecret }}
{{- else if .Values.keys.values -}}{{ include "mirl.fullname" . }}-keys
{{- end -}}
{{- end -}}

{{/* "true" where the model is one of a hub: neither bundled nor a folder. */}}
{{- define "mirl.usesHub" -}}
{{- if and .Values.model.name (not (hasPrefix "/" .Values.model.name)) -}}true{{- end -}}
{{- end -}}

{{/* Where the gateway finds the tokenizer; empty: where the engines say. */}}
{{- define "mirl.tokenizer" -}}
{{- default (ternary .Values.model.name "" (eq .Values.mode "fleet")) .Values.gateway.tokenizer -}}
{{- end -}}

{{/* "true" where the gateway may fetch the tokenizer from a hub. */}}
{{- define "mirl.gatewayUsesHub" -}}
{{- $tokenizer := include "mirl.tokenizer" . -}}
{{- if and (not (hasPrefix "/" $tokenizer)) (or $tokenizer (eq .Values.mode "gateway")) -}}true{{- end -}}
{{- end -}}
