{{/* Its Pods have the label ray.io/cluster with this name, from the operator. */}}
{{- define "featherwire.rayName" -}}
{{ include "featherwire.fullname" . | trunc 46 | trimSuffix "-" }}-ray
{{- end }}

{{/* Of the operator's Pods. It sets app.kubernetes.io/name itself, and finds the head by it. */}}
{{- define "featherwire.rayLabels" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "featherwire.rayEnv" -}}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.ray.auth.secretName }}
      key: {{ .Values.ray.auth.key }}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- end }}

{{/* Parameters of `ray start` on every node, by name. The ports are those of the NetworkPolicy. */}}
{{- define "featherwire.rayStart" -}}
node-manager-port: "6380"
object-manager-port: "6381"
dashboard-agent-grpc-port: "6382"
runtime-env-agent-port: "6383"
dashboard-agent-listen-port: "52365"
min-worker-port: "10002"
max-worker-port: "10999"
# Frames are messages, so little lies there; /dev/shm is larger.
object-store-memory: "268435456"
{{- end }}

{{/* The operator's own probes want wget, which the image has not. */}}
{{- define "featherwire.rayProbes" -}}
startupProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 12
{{- end }}

{{/* Who is part of the Ray cluster: its own Pods, and the servers. */}}
{{- define "featherwire.rayPeers" -}}
- podSelector:
    matchLabels:
      ray.io/cluster: {{ include "featherwire.rayName" . }}
- podSelector:
    matchLabels:
      {{- include "featherwire.selector" (dict "root" . "component" "ingest") | nindent 6 }}
{{- end }}

{{- define "featherwire.rayPorts" -}}
- {port: 6379, endPort: 6383, protocol: TCP}
- {port: 10002, endPort: 10999, protocol: TCP}
{{- end }}

{{/* The node without processors of a server's Pod. It begins before the server and ends after it. */}}
{{- define "featherwire.rayNode" -}}
- name: ray
  image: {{ include "featherwire.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  command: ["ray", "start"]
  args:
    - --address={{ include "featherwire.rayName" . }}-head-svc.{{ .Release.Namespace }}.svc:6379
    - --num-cpus=0
    - --num-gpus=0
    - --block
    {{- range $name, $value := include "featherwire.rayStart" . | fromYaml }}
    - --{{ $name }}={{ $value }}
    {{- end }}
  env:
    {{- include "featherwire.rayEnv" . | nindent 4 }}
  {{- include "featherwire.rayProbes" . | nindent 2 }}
  securityContext:
    {{- include "featherwire.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.ray.node.resources | nindent 4 }}
  volumeMounts:
    - {name: ray-tmp, mountPath: /tmp}
    {{- include "featherwire.rayShared" . | nindent 4 }}
{{- end }}

{{/* What a driver and the node beside it share. */}}
{{- define "featherwire.rayShared" -}}
- {name: ray, mountPath: /tmp/ray}
- {name: shm, mountPath: /dev/shm}
{{- end }}

{{- define "featherwire.checkRay" -}}
{{- $ray := .Values.ray }}
{{- if not $ray.auth.secretName }}
{{- fail "ray.auth.secretName: a Secret with Ray's token" }}
{{- end }}
{{- if or (gt (int .Values.ingest.workers) 0) (gt (int .Values.ingest.gpus) 0) }}
{{- fail "ingest.workers and ingest.gpus are for servers without Ray; see ray.workers" }}
{{- end }}
{{- if or (gt (int $ray.replicas.min) (int $ray.replicas.max)) (gt (int $ray.workers.min) (int $ray.workers.max)) }}
{{- fail "ray.replicas and ray.workers: min is more than max" }}
{{- end }}
{{- range list "cpus" "gpus" }}
{{- if gt (float64 (get $ray.replicas .)) (float64 (get $ray.workers .)) }}
{{- fail (printf "ray.replicas.%s is more than a worker has (ray.workers.%s)" . .) }}
{{- end }}
{{- end }}
{{- if not (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail "ray needs Kubernetes 1.29: Ray's node must end after the server beside it" }}
{{- end }}
{{- end }}
