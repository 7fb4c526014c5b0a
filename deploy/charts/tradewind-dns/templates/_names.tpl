{{- define "dns.labels" -}}
{{ include "dns.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tradewind
{{- end -}}

{{- /* Belongs to the whole cluster, where another namespace may have its own. */ -}}
{{- define "dns.priorityClass" -}}
{{ .Values.priorityClassName | default (printf "tradewind-dns-%s" .Release.Namespace) }}
{{- end -}}

{{- define "dns.selector" -}}
app.kubernetes.io/name: tradewind-dns
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* dict "root" . "name" … "protocols" (list "UDP" "TCP") */ -}}
{{- define "dns.service" -}}
{{- $service := .root.Values.service -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels: {{- include "dns.labels" .root | nindent 4 }}
  {{- with $service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  # Steering is by the resolver's address where it sends no client subnet.
  externalTrafficPolicy: Local
  {{- if eq $service.type "LoadBalancer" }}
  {{- with $service.loadBalancerClass }}
  loadBalancerClass: {{ . | quote }}
  {{- end }}
  {{- end }}
  selector: {{- include "dns.selector" .root | nindent 4 }}
  ports:
    {{- range .protocols }}
    - name: dns-{{ lower . }}
      protocol: {{ . }}
      port: 53
      targetPort: dns-{{ lower . }}
      {{- if eq $service.type "NodePort" }}
      nodePort: {{ $service.nodePort }}
      {{- end }}
    {{- end }}
{{- end -}}
