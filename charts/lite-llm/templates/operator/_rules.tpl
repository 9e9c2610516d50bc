{{/* Which namespaces the operator looks after, as a YAML list; empty: all. */}}
{{- define "lite-llm.operator.namespaces" -}}
{{- if eq .Values.operator.scope "namespaced" -}}
{{- toYaml (.Values.operator.namespaces | default (list .Release.Namespace)) -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* In each namespace that it looks after. */}}
{{- define "lite-llm.operator.rules" -}}
- apiGroups: [lite-llm.dev]
  resources: [litellmmodels, tiersets]
  verbs: [get, list, watch, patch]
- apiGroups: [lite-llm.dev]
  resources: [litellmmodels/status, tiersets/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "lite-llm.pdbVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (.Capabilities.APIVersions.Has "policy/v1") -}}
{{- end -}}
