{{- define "proxy.volumes" -}}
{{- /* `.configMap` is the one with proxy.toml, `.policies` the one with policy files. */ -}}
{{- $root := .root -}}
{{- with $root.Values }}
- name: config
  projected:
    sources:
      - configMap:
          name: {{ $.configMap }}
      {{- if or .policy .shadowPolicy }}
      - configMap:
          name: {{ $.policies }}
      {{- end }}
      {{- if .store.caSecret.name }}
      - secret:
          name: {{ .store.caSecret.name }}
          items:
            - key: {{ .store.caSecret.key }}
              path: store-ca/{{ .store.caSecret.key }}
      {{- end }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "proxy.secret" $root }}
      {{- if .store.passwordSecret.name }}
      - secret:
          name: {{ .store.passwordSecret.name }}
          items:
            - key: {{ .store.passwordSecret.key }}
              path: store-password
      {{- end }}
      {{- range .secrets.more }}
      - secret:
          name: {{ . }}
      {{- end }}
{{- if .tls.secretName }}
- name: tls
  secret:
    secretName: {{ .tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "proxy.mounts" -}}
- name: config
  mountPath: /etc/mlflow-auth-proxy
  readOnly: true
- name: secrets
  mountPath: /run/secrets/mlflow-auth-proxy
  readOnly: true
{{- if .Values.tls.secretName }}
- name: tls
  mountPath: /run/tls
  readOnly: true
{{- end }}
- name: data
  mountPath: /data
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "proxy.env" -}}
- name: MLFLOW_AUTH_PROXY_CONFIG
  value: /etc/mlflow-auth-proxy/proxy.toml
# Variables of the image, which would override the file.
- name: MLFLOW_AUTH_PROXY_SERVER__LISTEN
  value: {{ printf "%s:8080" (include "proxy.bind" .) | quote }}
- name: MLFLOW_AUTH_PROXY_STORE__URL
  value: {{ include "proxy.storeUrl" . | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "proxy.container" -}}
name: proxy
image: {{ include "proxy.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  {{- include "proxy.env" . | nindent 2 }}
ports:
  - name: {{ include "proxy.scheme" . }}
    containerPort: 8080
  - name: admin
    containerPort: 9090
startupProbe:
  httpGet: {path: /livez, port: admin}
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  {{- include "proxy.mounts" . | nindent 2 }}
{{- end }}

{{- define "proxy.claim" -}}
metadata:
  name: {{ .name }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .volume.storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .volume.size }}
{{- end }}

{{- /* Settings that the pods of proxies and of Jobs share. */ -}}
{{- define "proxy.podBasics" -}}
serviceAccountName: {{ include "proxy.serviceAccount" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
# Variables that are named after Services would be read as settings.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{- /* The pod of a command on the store: `.script` is one of sh. A command on SQLite runs on the proxy's node, with its volume. */ -}}
{{- define "proxy.commandPod" -}}
{{- $root := .root }}
metadata:
  labels:
    {{- include "proxy.labels" $root | nindent 4 }}
    app.kubernetes.io/component: command
spec:
  restartPolicy: Never
  {{- include "proxy.podBasics" $root | nindent 2 }}
  {{- if not $root.Values.store.url }}
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "proxy.selector" $root | nindent 14 }}
              app.kubernetes.io/component: proxy
  {{- end }}
  containers:
    - name: command
      image: {{ include "proxy.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [/bin/sh, -euc]
      args:
        - |
          {{- .script | nindent 10 }}
      env:
        {{- include "proxy.env" $root | nindent 8 }}
      resources:
        requests: {cpu: 50m, memory: 64Mi}
        limits: {memory: 512Mi}
      securityContext:
        {{- toYaml $root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        {{- include "proxy.mounts" $root | nindent 8 }}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "proxy.volumes" . | trim | nindent 4 }}
    - name: data
      {{- if $root.Values.store.url }}
      emptyDir: {}
      {{- else }}
      persistentVolumeClaim:
        claimName: {{ include "proxy.dataClaim" $root }}
      {{- end }}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "proxy.dataClaim" -}}
{{- .Values.store.volume.existingClaim | default (printf "data-%s-0" (include "proxy.fullname" .)) -}}
{{- end }}
