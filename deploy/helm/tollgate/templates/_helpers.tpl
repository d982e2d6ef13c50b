{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tollgate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tollgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tollgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of all objects but their component. */}}
{{- define "tollgate.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "tollgate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tollgate
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "tollgate.labels" -}}
{{ include "tollgate.commonLabels" . }}
app.kubernetes.io/component: ratelimit
{{- end }}

{{- define "tollgate.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "tollgate.labels" . | nindent 2 }}
{{- end }}

{{- define "tollgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tollgate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tollgate.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "tollgate.rulesConfigMap" -}}
{{- if .Values.rules.existingConfigMap }}
{{- .Values.rules.existingConfigMap }}
{{- else if .Values.rules.files }}
{{- printf "%s-rules" (include "tollgate.fullname" .) }}
{{- end }}
{{- end }}

{{- define "tollgate.usesRedis" -}}
{{- if or .Values.redis.url .Values.redis.urlKey }}true{{ end }}
{{- end }}

{{- define "tollgate.hasReplicas" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) }}true{{ end }}
{{- end }}

{{- define "tollgate.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  {{- if .root.Values.tls.http }}
  scheme: HTTPS
  {{- end }}
{{- with .probe }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Values that would leave limits unenforced, or a pod that cannot start. */}}
{{- define "tollgate.validate" -}}
{{- if and (include "tollgate.hasReplicas" .) (not (include "tollgate.usesRedis" .)) }}
{{- fail "several replicas without Redis would each count alone and admit a multiple of every limit: set redis.url, or replicaCount to 1 and autoscaling.enabled to false" }}
{{- end }}
{{- if and .Values.rules.files .Values.rules.existingConfigMap }}
{{- fail "rules.files and rules.existingConfigMap are both set: use one of them" }}
{{- end }}
{{- if not (or (include "tollgate.rulesConfigMap" .) .Values.rules.xds.enabled) }}
{{- fail "there are no rules: set rules.files, rules.existingConfigMap or rules.xds" }}
{{- end }}
{{- if and .Values.rules.xds.enabled (not .Values.rules.xds.server) }}
{{- fail "rules.xds.enabled needs rules.xds.server" }}
{{- end }}
{{- if and (or .Values.redis.urlKey .Values.redis.passwordKey .Values.redis.sentinelPasswordKey) (not .Values.redis.existingSecret) }}
{{- fail "redis.urlKey, redis.passwordKey and redis.sentinelPasswordKey need redis.existingSecret" }}
{{- end }}
{{- if and .Values.redis.url .Values.redis.urlKey }}
{{- fail "redis.url and redis.urlKey are both set: use one of them" }}
{{- end }}
{{- if and .Values.redis.tls.existingSecret (not .Values.redis.tls.enabled) }}
{{- fail "redis.tls.existingSecret has no effect without redis.tls.enabled" }}
{{- end }}
{{- if and (or .Values.tls.requireClientCertificate .Values.tls.clientNames .Values.tls.http) (not .Values.tls.existingSecret) }}
{{- fail "tls.requireClientCertificate, tls.clientNames and tls.http need tls.existingSecret" }}
{{- end }}
{{- if and .Values.tls.clientNames (not .Values.tls.requireClientCertificate) }}
{{- fail "tls.clientNames needs tls.requireClientCertificate" }}
{{- end }}
{{- range $name := list "RULES_PATH" "REDIS_URL" "BACKEND_TYPE" "CONFIG_TYPE" "GRPC_PORT" "PORT" "PROMETHEUS_ADDR" "SHUTDOWN_DELAY" "SHUTDOWN_TIMEOUT" }}
{{- if hasKey $.Values.settings $name }}
{{- fail (printf "settings.%s: the chart sets this variable from other values" $name) }}
{{- end }}
{{- end }}
{{- end }}
