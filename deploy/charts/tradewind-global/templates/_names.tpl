{{- define "global.labels" -}}
{{ include "global.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tradewind
{{- end -}}

{{- /* Belongs to the whole cluster, where another namespace may have its own. */ -}}
{{- define "global.priorityClass" -}}
{{ .Values.priorityClassName | default (printf "tradewind-global-%s" .Release.Namespace) }}
{{- end -}}

{{- define "global.selector" -}}
app.kubernetes.io/name: tradewind-global
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}
