{{- define "global.labels" -}}
{{ include "global.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tradewind
{{- end -}}

{{- define "global.selector" -}}
app.kubernetes.io/name: tradewind-global
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
