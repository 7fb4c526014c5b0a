{{- /* Of objects that belong to the whole cluster, where another region's may be, too, or the same
region's in another namespace. */ -}}
{{- define "region.clusterName" -}}
tradewind-{{ .Release.Namespace }}-{{ .Values.region.name }}
{{- end -}}

{{- define "region.labels" -}}
app.kubernetes.io/name: tradewind-region
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tradewind
tradewind.dev/region: {{ .Values.region.name | quote }}
{{- end -}}

{{- /* dict "root" . "component" "gateway" */ -}}
{{- define "region.selector" -}}
app.kubernetes.io/name: tradewind-region
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* Every pod that runs or may run a function; labels of region-plane/resources. */ -}}
{{- define "region.functionPods" -}}
matchLabels:
  app.kubernetes.io/managed-by: tradewind
matchExpressions:
  - { key: tradewind.dev/kind, operator: Exists }
{{- end -}}

{{- /* dict "root" . "name" "runtime-python" */ -}}
{{- define "region.image" -}}
{{- $images := .root.Values.images -}}
{{- $digest := get $images.digests .name -}}
{{- if $digest -}}
{{ $images.registry }}/{{ .name }}@{{ $digest }}
{{- else -}}
{{ $images.registry }}/{{ .name }}:{{ $images.tag }}
{{- end -}}
{{- end -}}

{{- /* A pool's image is one of ours, or anything with a slash in it. */ -}}
{{- define "region.poolImage" -}}
{{- if contains "/" .name }}{{ .name }}{{ else }}{{ include "region.image" . }}{{ end -}}
{{- end -}}

{{- define "region.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "region.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "region.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end -}}

{{- /* Over zones, then nodes; a pod in the wrong place is better than none. */ -}}
{{- define "region.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "region.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{- define "region.address" -}}
{{- if .Values.gateway.address -}}
{{ .Values.gateway.address }}
{{- else -}}
{{ .Values.region.ipv4 }}:{{ .Values.gateway.port }}
{{- end -}}
{{- end -}}

{{- /* The lines every configuration of this region has: gateway and operator must agree on what is
placed here. */ -}}
{{- define "region.common" -}}
name = {{ .Values.region.name | quote }}
zone = {{ .Values.zone | quote }}
globals = {{ .Values.globals | toJson }}
data_dir = "/var/lib/tradewind"
{{- if not (kindIs "invalid" .Values.region.latitude) }}
latitude = {{ .Values.region.latitude | float64 | printf "%.4f" }}
longitude = {{ .Values.region.longitude | float64 | printf "%.4f" }}
{{- end }}
{{- with .Values.region.labels }}
labels = {{ include "region.table" . }}
{{- end }}
{{- end -}}

{{- /* A map of strings as an inline table; JSON's strings are TOML's. */ -}}
{{- define "region.table" -}}
{{- $pairs := list -}}
{{- range $name, $value := . -}}
{{- $pairs = append $pairs (printf "%s = %s" (toJson $name) (toJson $value)) -}}
{{- end -}}
{ {{ join ", " $pairs }} }
{{- end -}}

{{- /* Tolerations as an inline array, with the operator's names for their fields. */ -}}
{{- define "region.tolerations" -}}
{{- $all := list -}}
{{- range . -}}
{{- $pairs := list -}}
{{- range $name, $value := . -}}
{{- if eq $name "tolerationSeconds" -}}
{{- $pairs = append $pairs (printf "toleration_seconds = %d" (int64 $value)) -}}
{{- else -}}
{{- $pairs = append $pairs (printf "%s = %s" $name (toJson $value)) -}}
{{- end -}}
{{- end -}}
{{- $all = append $all (printf "{ %s }" (join ", " $pairs)) -}}
{{- end -}}
[{{ join ", " $all }}]
{{- end -}}

{{- /* Where functions' pods may be: beside them, what makes room for them. dict "root" . "more" tolerations */ -}}
{{- define "region.functionsPlace" -}}
{{- $functions := .root.Values.functions -}}
{{- with $functions.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $functions.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat $functions.tolerations .more }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Seconds from SIGTERM to SIGKILL: the pause, the calls, five seconds in which the gateway closes
its store, and five more so that it is never the kubelet that ends it. */ -}}
{{- define "region.gatewayGrace" -}}
{{- add (div (add .Values.gateway.drainPauseMs .Values.gateway.drainGraceMs 999) 1000) 10 -}}
{{- end -}}
