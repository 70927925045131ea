{{- /* A value of TOML. Numbers of YAML arrive as floating-point numbers. */ -}}
{{- define "toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ include "toml.key" $key }} = {{ include "toml.value" (index $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "toml.value" $item }}{{ end }}]
{{- else if kindIs "string" . -}}
{{ . | toRawJson }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- define "toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ . | toRawJson }}{{ end -}}
{{- end }}

{{- /* The table `.map` below the heading `.path`: its keys, then its tables. */ -}}
{{- define "toml.table" -}}
{{- $plain := list -}}
{{- range $key, $value := .map -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) -}}
{{- $plain = append $plain (printf "%s = %s" (include "toml.key" $key) (include "toml.value" $value)) -}}
{{- end -}}
{{- end -}}
{{- if $plain }}
{{ with .path }}[{{ . }}]
{{ end }}{{ join "\n" $plain }}
{{ end -}}
{{- $path := .path -}}
{{- range $key, $value := .map -}}
{{- if kindIs "map" $value -}}
{{- $name := include "toml.key" $key -}}
{{- include "toml.table" (dict "path" (ternary (printf "%s.%s" $path $name) $name (ne $path "")) "map" $value) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "proxy.mlflowUrl" -}}
{{- if eq .Values.mode "sidecar" -}}
http://127.0.0.1:5000
{{- else if .Values.mlflow.url -}}
{{ .Values.mlflow.url | trimSuffix "/" }}
{{- else -}}
http://{{ include "proxy.fullname" . }}-mlflow:5000
{{- end -}}
{{- end }}

{{- define "proxy.bind" -}}
{{- ternary (printf "[%s]" .Values.bindAddress) .Values.bindAddress (contains ":" .Values.bindAddress) -}}
{{- end }}

{{- define "proxy.storeUrl" -}}
{{- .Values.store.url | default "sqlite:///data/store.db" -}}
{{- end }}

{{- /* The keys that the chart sets. */ -}}
{{- define "proxy.ownConfig" -}}
server:
  {{- if .Values.publicUrl }}
  public_url: {{ .Values.publicUrl | quote }}
  {{- $name := include "proxy.fullname" . }}
  allowed_hosts:
    - {{ $name }}
    - {{ $name }}.{{ .Release.Namespace }}
    - {{ $name }}.{{ .Release.Namespace }}.svc
    - {{ $name }}.{{ .Release.Namespace }}.svc.cluster.local
    {{- range dig "server" "allowed_hosts" list .Values.config }}
    - {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- if .Values.tls.secretName }}
  tls:
    cert: /run/tls/tls.crt
    key: /run/tls/tls.key
  {{- else }}
  allow_plain_http: true
  {{- end }}
admin:
  listen: {{ printf "%s:9090" (include "proxy.bind" .) | quote }}
upstream:
  url: {{ include "proxy.mlflowUrl" . | quote }}
{{- if .Values.store.url }}
store:
  password_file: /run/secrets/mlflow-auth-proxy/store-password
{{- end }}
bootstrap:
  admin_password_file: /run/secrets/mlflow-auth-proxy/admin-password
session:
  keys_file: /run/secrets/mlflow-auth-proxy/session-keys
{{- if or .Values.policy .Values.shadowPolicy }}
authz:
  {{- if .Values.policy }}
  policy_file: /etc/mlflow-auth-proxy/policy.toml
  {{- end }}
  {{- if .Values.shadowPolicy }}
  shadow_policy_file: /etc/mlflow-auth-proxy/shadow.toml
  {{- end }}
{{- end }}
{{- end }}

{{- define "proxy.toml" -}}
{{- $own := include "proxy.ownConfig" . | fromYaml -}}
{{- include "toml.table" (dict "path" "" "map" (mergeOverwrite (deepCopy .Values.config) $own)) | trim -}}
{{- end }}

{{- define "proxy.policies" -}}
{{- with .Values.policy }}
policy.toml: |
  {{- . | trim | nindent 2 }}
{{- end }}
{{- with .Values.shadowPolicy }}
shadow.toml: |
  {{- . | trim | nindent 2 }}
{{- end }}
{{- end }}
