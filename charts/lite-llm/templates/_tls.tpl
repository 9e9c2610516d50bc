{{/* Who has a certificate, and what names it carries. */}}

{{/* In every certificate of ours: Pods are reached at addresses, which none can name beforehand. */}}
{{- define "lite-llm.tls.serverName" -}}
lite-llm.internal
{{- end -}}

{{/* YAML of component -> {names, addresses}. */}}
{{- define "lite-llm.tls.certificates" -}}
{{- $full := include "lite-llm.fullname" . -}}
orchestrator:
  names:
    - {{ include "lite-llm.tls.serverName" . }}
    - {{ $full }}
    - {{ printf "%s.%s" $full .Release.Namespace }}
    - {{ printf "%s.%s.svc" $full .Release.Namespace }}
  addresses: []
agent:
  names: [{{ include "lite-llm.tls.serverName" . }}]
  addresses: []
{{- if eq .Values.etcd.mode "embedded" }}
etcd:
  # etcd believes a member whose address is what one of these names leads to.
  names:
    {{- range $number := until (int .Values.etcd.replicas) }}
    - {{ include "lite-llm.etcd.member" (dict "root" $ "number" $number) }}
    {{- end }}
    - {{ printf "%s-etcd.%s.svc" $full .Release.Namespace }}
    - localhost
  addresses: ["127.0.0.1"]
etcd-client:
  # etcd refuses clients whose certificates name hosts that they do not come from.
  names: []
  addresses: []
{{- end }}
{{- end -}}
