{{- define "mlflow.container" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
{{- with .Values.mlflow -}}
name: mlflow
image: {{ include "mlflow.image" $ | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
command: [mlflow, server]
# The image's own folder may be closed to this user, and MLflow's workers change into it.
workingDir: /tmp
args:
  - {{ printf "--host=%s" (ternary "127.0.0.1" $.Values.bindAddress $sidecar) | quote }}
  - --port=5000
  - --workers={{ int .workers }}
  - {{ printf "--artifacts-destination=%s" (.artifacts.destination | default "/mlflow/artifacts") | quote }}
  {{- with dig "upstream" "static_prefix" "" $.Values.config }}
  - {{ printf "--static-prefix=%s" . | quote }}
  {{- end }}
  {{- range .extraArgs }}
  - {{ . | quote }}
  {{- end }}
env:
  - name: HOME
    value: /tmp
  - name: MLFLOW_BACKEND_STORE_URI
    value: {{ .backendStore.uri | default "sqlite:////mlflow/mlflow.db" | quote }}
  {{- if .backendStore.passwordSecret.name }}
  - name: PGPASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ .backendStore.passwordSecret.name }}
        key: {{ .backendStore.passwordSecret.key }}
  {{- end }}
  {{- if not $sidecar }}
  # The name by which the proxy calls it; health checks are exempt.
  - name: MLFLOW_SERVER_ALLOWED_HOSTS
    value: {{ include "proxy.fullname" $ }}-mlflow:5000
  {{- end }}
  {{- with .artifacts.s3.endpointUrl }}
  - name: MLFLOW_S3_ENDPOINT_URL
    value: {{ . | quote }}
  {{- end }}
  {{- if .artifacts.s3.credentialsSecret.name }}
  - name: AWS_SHARED_CREDENTIALS_FILE
    value: /run/secrets/mlflow/{{ .artifacts.s3.credentialsSecret.key }}
  {{- end }}
  {{- with .extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - name: mlflow
    containerPort: 5000
startupProbe:
  {{- include "mlflow.check" $ | nindent 2 }}
  {{- toYaml .startup | nindent 2 }}
livenessProbe:
  {{- include "mlflow.check" $ | nindent 2 }}
  periodSeconds: 30
  failureThreshold: 6
  timeoutSeconds: 15
{{- if $sidecar }}
{{- if not (include "mlflow.nativeSidecar" $) }}
# Stops after the proxy, which still sends it requests in progress.
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ include "proxy.drainSeconds" $ | quote }}]
{{- end }}
{{- else }}
readinessProbe:
  {{- include "mlflow.check" $ | nindent 2 }}
  periodSeconds: 5
  failureThreshold: 3
  timeoutSeconds: 15
# Until no proxy connects to it any more.
lifecycle:
  preStop:
    exec:
      command: [sleep, "5"]
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- toYaml $.Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - name: mlflow-tmp
    mountPath: /tmp
  {{- if include "mlflow.local" $ }}
  - name: mlflow
    mountPath: /mlflow
  {{- end }}
  {{- if .artifacts.s3.credentialsSecret.name }}
  - name: mlflow-secrets
    mountPath: /run/secrets/mlflow
    readOnly: true
  {{- end }}
  {{- with .extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* On loopback, the kubelet cannot ask MLflow itself. */ -}}
{{- define "mlflow.check" -}}
{{- $path := printf "%s/health" (dig "upstream" "static_prefix" "" .Values.config) -}}
{{- if eq .Values.mode "sidecar" -}}
exec:
  command:
    - python
    - -c
    - import urllib.request; urllib.request.urlopen("http://127.0.0.1:5000{{ $path }}", timeout=10)
{{- else -}}
httpGet: {path: {{ $path }}, port: mlflow}
{{- end -}}
{{- end }}

{{- define "mlflow.volumes" -}}
- name: mlflow-tmp
  emptyDir: {}
{{- with .Values.mlflow }}
{{- if .artifacts.s3.credentialsSecret.name }}
- name: mlflow-secrets
  secret:
    secretName: {{ .artifacts.s3.credentialsSecret.name }}
    defaultMode: 0440
{{- end }}
{{- if and (include "mlflow.local" $) .volume.existingClaim }}
- name: mlflow
  persistentVolumeClaim:
    claimName: {{ .volume.existingClaim }}
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
