{{- define "featherwire.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "featherwire.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "featherwire.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "featherwire.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that never change, by which Pods are found: dict "root" . "component" "ingest" */}}
{{- define "featherwire.selector" -}}
app.kubernetes.io/name: {{ include "featherwire.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "featherwire.labels" -}}
{{ include "featherwire.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "featherwire.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "featherwire.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "featherwire.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{- define "featherwire.serverName" -}}
{{ default (printf "%s.%s.svc" (include "featherwire.fullname" .) .Release.Namespace) .Values.tls.serverName }}
{{- end }}

{{- define "featherwire.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "featherwire.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The log's URL, for every container that opens the log. */}}
{{- define "featherwire.databaseEnv" -}}
- name: FEATHERWIRE_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.secretName }}
      key: {{ .Values.database.key }}
{{- end }}

{{/* Fetches the weights of the tasks to where all Pods look for them. */}}
{{- define "featherwire.weightsContainer" -}}
- name: weights
  image: {{ include "featherwire.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: ["models", "fetch"]
  securityContext:
    {{- include "featherwire.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.ingest.resources | nindent 4 }}
  volumeMounts:
    - {name: weights, mountPath: /home/featherwire/.cache/featherwire}
    - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "featherwire.weightsVolume" -}}
- name: weights
  {{- if .Values.weights.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ include "featherwire.fullname" . }}-weights}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{/* What cannot work says so before it is installed. */}}
{{- define "featherwire.check" -}}
{{- $many := or (gt (int .Values.ingest.replicas) 1) .Values.autoscaling.enabled }}
{{- if and $many (not .Values.ingest.sharedLog) }}
{{- fail "one server a log: ingest.replicas above 1, and autoscaling, need ingest.sharedLog" }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is more than maxReplicas" }}
{{- end }}
{{- $volume := .Values.weights.persistence }}
{{- $pods := or .Values.ingest.sharedLog .Values.ray.enabled }}
{{- if and $pods $volume.enabled (ne $volume.accessMode "ReadWriteMany") }}
{{- fail "several Pods use the weights: weights.persistence.accessMode must be ReadWriteMany" }}
{{- end }}
{{- if .Values.ray.enabled }}{{ include "featherwire.checkRay" . }}{{ end }}
{{- end }}
