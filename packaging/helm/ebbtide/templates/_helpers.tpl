{{- define "ebbtide.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What names of objects begin with: short enough for what is put behind it. */}}
{{- define "ebbtide.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Called with a list of the root and the component. */}}
{{- define "ebbtide.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "ebbtide.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ebbtide.labels" -}}
{{- $root := index . 0 -}}
{{ include "ebbtide.selector" . }}
app.kubernetes.io/part-of: ebbtide
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Called with a list of the root and the component's image. */}}
{{- define "ebbtide.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $name }}
{{- end }}

{{/* A list of words in TOML. */}}
{{- define "ebbtide.words" -}}
[{{ range $i, $word := . }}{{ if $i }}, {{ end }}{{ $word | quote }}{{ end }}]
{{- end }}

{{- define "ebbtide.fleetHost" -}}
{{ include "ebbtide.fullname" . }}-fleet.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where agents find the daemon; empty if there is none. */}}
{{- define "ebbtide.fleetAddress" -}}
{{- if .Values.agent.fleet.address -}}
{{ .Values.agent.fleet.address }}
{{- else if .Values.fleet.enabled -}}
{{ if not .Values.fleet.tls.enabled }}http://{{ end }}{{ include "ebbtide.fleetHost" . }}:{{ .Values.fleet.service.grpcPort }}
{{- end }}
{{- end }}

{{/* Whether what agents send is in plain text: then none has an identity. */}}
{{- define "ebbtide.plain" -}}
{{- if hasPrefix "http://" (include "ebbtide.fleetAddress" .) }}yes{{ end }}
{{- end }}

{{- define "ebbtide.issuerRef" -}}
{{- if .Values.certManager.issuerRef }}
{{- toYaml .Values.certManager.issuerRef }}
{{- else -}}
name: {{ include "ebbtide.fullname" . }}-authority
kind: Issuer
{{- end }}
{{- end }}
