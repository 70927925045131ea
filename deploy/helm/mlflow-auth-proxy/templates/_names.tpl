{{- define "proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- /* Names of further objects end with up to 10 characters, and a Job's pods with 6 more. */ -}}
{{- define "proxy.fullname" -}}
{{- $name := include "proxy.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "proxy.selector" -}}
app.kubernetes.io/name: {{ include "proxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "proxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "proxy.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "mlflow.image" -}}
{{- with .Values.mlflow.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "proxy.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "proxy.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "mlflow.serviceAccount" -}}
{{- $name := printf "%s-mlflow" (include "proxy.fullname" .) -}}
{{- .Values.mlflow.serviceAccount.name | default (ternary $name "default" .Values.mlflow.serviceAccount.create) -}}
{{- end }}

{{- define "proxy.secret" -}}
{{- .Values.secrets.existingSecret | default (include "proxy.fullname" .) -}}
{{- end }}

{{- /* Each of the following is empty for false. */ -}}
{{- define "mlflow.bundled" -}}
{{- if or (eq .Values.mode "sidecar") (not .Values.mlflow.url) }}true{{ end -}}
{{- end }}

{{- define "mlflow.local" -}}
{{- if and (include "mlflow.bundled" .) (or (not .Values.mlflow.backendStore.uri) (not .Values.mlflow.artifacts.destination)) }}true{{ end -}}
{{- end }}

{{- /* True if the proxy's pod has a volume that only one pod can use. */ -}}
{{- define "proxy.stateful" -}}
{{- if or (not .Values.store.url) (and (eq .Values.mode "sidecar") (include "mlflow.local" .)) }}true{{ end -}}
{{- end }}

{{- define "mlflow.nativeSidecar" -}}
{{- if kindIs "bool" .Values.mlflow.nativeSidecar -}}
{{- if .Values.mlflow.nativeSidecar }}true{{ end -}}
{{- else if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version }}true{{ end -}}
{{- end }}

{{- define "proxy.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 1 2 (eq (include "proxy.stateful" .) "true") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end }}

{{- define "proxy.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.secretName "") -}}
{{- end }}

{{- define "proxy.servicePort" -}}
{{- .Values.service.port | default (ternary 443 80 (ne .Values.tls.secretName "")) | int -}}
{{- end }}

{{- define "proxy.publicHost" -}}
{{- (urlParse .Values.publicUrl).host | splitList ":" | first -}}
{{- end }}

{{- define "proxy.path" -}}
{{- dig "upstream" "static_prefix" "" .Values.config | default "/" -}}
{{- end }}

{{- /* Seconds until a proxy that was told to stop has ended. */ -}}
{{- define "proxy.drainSeconds" -}}
{{- $server := dig "server" dict .Values.config -}}
{{- add (dig "drain_delay_seconds" 5 $server) (dig "drain_timeout_seconds" 30 $server) 10 -}}
{{- end }}
