{{/* How programs reach etcd. */}}

{{- define "lite-llm.etcd.endpoints" -}}
{{- if eq .Values.etcd.mode "external" -}}
{{- join "," .Values.etcd.external.endpoints -}}
{{- else -}}
{{- $urls := list -}}
{{- range $number := until (int .Values.etcd.replicas) -}}
{{- $urls = append $urls (printf "%s://%s:2379" (include "lite-llm.etcd.scheme" $) (include "lite-llm.etcd.member" (dict "root" $ "number" $number))) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}
{{- end -}}

{{- define "lite-llm.etcd.scheme" -}}
{{- ternary "http" "https" (eq .Values.tls.mode "none") -}}
{{- end -}}

{{/* Name of a member that others find it by: (dict "root" $ "number" 0) */}}
{{- define "lite-llm.etcd.member" -}}
{{- $name := printf "%s-etcd" (include "lite-llm.fullname" .root) -}}
{{- printf "%s-%d.%s.%s.svc" $name (int .number) $name .root.Release.Namespace -}}
{{- end -}}

{{/* Secret with which programs are etcd's clients; empty: plain text. */}}
{{- define "lite-llm.etcd.tlsSecret" -}}
{{- if eq .Values.etcd.mode "external" -}}
{{- .Values.etcd.external.tlsSecret -}}
{{- else if ne .Values.tls.mode "none" -}}
{{- printf "%s-etcd-client-tls" (include "lite-llm.fullname" .) -}}
{{- end -}}
{{- end -}}
