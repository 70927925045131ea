{{- /* Refuses values that contradict each other, with a sentence that says what to change. */ -}}
{{- define "proxy.validate" -}}
{{- $replicas := int (include "proxy.replicas" .) -}}
{{- if include "proxy.stateful" . -}}
{{- $why := ternary "The embedded store (SQLite) is for one proxy" "MLflow's files on a volume are for one pod" (not .Values.store.url) -}}
{{- $how := ternary "set store.url to a database of PostgreSQL" "set mlflow.backendStore.uri and mlflow.artifacts.destination" (not .Values.store.url) -}}
{{- if gt $replicas 1 -}}{{- fail (printf "%s: set replicas to 1, or %s." $why $how) -}}{{- end -}}
{{- if .Values.autoscaling.enabled -}}{{- fail (printf "%s: set autoscaling.enabled to false, or %s." $why $how) -}}{{- end -}}
{{- end -}}

{{- if and .Values.store.url (not .Values.store.passwordSecret.name) (not (regexMatch "[?&]sslcert=" .Values.store.url)) -}}
{{- fail "store.url requires store.passwordSecret.name, a Secret with the password of its user (or sslcert and sslkey in the URL)." -}}
{{- end -}}
{{- if and (not .Values.store.url) (or .Values.store.passwordSecret.name .Values.store.caSecret.name) -}}
{{- fail "store.passwordSecret and store.caSecret belong to PostgreSQL: set store.url, or remove them." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (kindIs "invalid" .Values.replicas)) -}}
{{- fail "Either autoscaling.enabled or replicas: an upgrade would reset what the autoscaler chose." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is greater than autoscaling.maxReplicas." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.cpu) (not .Values.autoscaling.memory) -}}
{{- fail "autoscaling requires a target: set autoscaling.cpu or autoscaling.memory." -}}
{{- end -}}

{{- if and (eq .Values.mode "sidecar") .Values.mlflow.url -}}
{{- fail "In sidecar mode the chart runs MLflow in the proxy's pod: remove mlflow.url, or set mode to gateway." -}}
{{- end -}}
{{- if and (eq .Values.mode "sidecar") (ne (int .Values.mlflow.replicas) 1) -}}
{{- fail "In sidecar mode each proxy has its own MLflow server: set replicas instead of mlflow.replicas." -}}
{{- end -}}
{{- if and (include "mlflow.local" .) (gt (int .Values.mlflow.replicas) 1) -}}
{{- fail "MLflow's files on a volume are for one server: set mlflow.replicas to 1, or set mlflow.backendStore.uri and mlflow.artifacts.destination." -}}
{{- end -}}
{{- if regexMatch "//[^/@]*:[^/@]*@" .Values.mlflow.backendStore.uri -}}
{{- fail "mlflow.backendStore.uri contains a password, which everybody who can read the release would see: move it into mlflow.backendStore.passwordSecret." -}}
{{- end -}}
{{- if regexMatch "^postgres(ql)?://" .Values.mlflow.backendStore.uri -}}
{{- fail "mlflow.backendStore.uri: write postgresql+psycopg2://, because new versions of SQLAlchemy read postgresql:// as another driver." -}}
{{- end -}}

{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled .Values.config.oidc) (not .Values.publicUrl) -}}
{{- fail "ingress, httpRoute and config.oidc require publicUrl, the address in browsers." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute requires httpRoute.parentRefs, the gateways that it belongs to." -}}
{{- end -}}
{{- if and .Values.podDisruptionBudget.enabled (not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget takes minAvailable or maxUnavailable: set the other one to null." -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- fail "Either metrics.serviceMonitor or metrics.podMonitor: both would count each proxy twice." -}}
{{- end -}}
{{- if and .Values.initialUsers (not .Values.initialUsersSecret) -}}
{{- fail "initialUsers requires initialUsersSecret, the Secret with their passwords." -}}
{{- end -}}

{{- $instead := dict
  "server.listen" "bindAddress"
  "server.public_url" "publicUrl"
  "server.allow_plain_http" "tls.secretName"
  "server.tls" "tls.secretName"
  "admin.listen" "bindAddress"
  "upstream.url" "mode and mlflow.url"
  "store.url" "store.url (outside config)"
  "store.password" "store.passwordSecret"
  "store.password_file" "store.passwordSecret"
  "bootstrap.admin_password" "secrets.existingSecret with the key admin-password"
  "bootstrap.admin_password_file" "secrets.existingSecret with the key admin-password"
  "session.keys" "secrets.existingSecret with the key session-keys"
  "session.keys_file" "secrets.existingSecret with the key session-keys"
  "authz.policy_file" "policy"
  "authz.shadow_policy_file" "shadowPolicy"
-}}
{{- range $section, $keys := .Values.config -}}
{{- if kindIs "map" $keys -}}
{{- range $key, $value := $keys -}}
{{- $name := printf "%s.%s" $section $key -}}
{{- if hasKey $instead $name -}}
{{- fail (printf "config.%s is set by the chart: use %s." $name (get $instead $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $provider := dig "oidc" "providers" dict .Values.config -}}
{{- if hasKey $provider "client_secret" -}}
{{- fail (printf "config.oidc.providers.%s.client_secret would be readable in the ConfigMap: put it into a Secret, list that in secrets.more, and set client_secret_file." $name) -}}
{{- end -}}
{{- end -}}
{{- end }}
