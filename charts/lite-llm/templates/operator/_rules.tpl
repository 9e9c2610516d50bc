{{/* Which namespaces the operator looks after, as a YAML list; empty: all. */}}
{{- define "lite-llm.operator.namespaces" -}}
{{- if eq .Values.operator.scope "namespaced" -}}
{{- toYaml (.Values.operator.namespaces | default (list .Release.Namespace)) -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* The operator's own list of what it may do, packed with the chart. */}}
{{- define "lite-llm.operator.rules" -}}
{{- (.Files.Get "files/operator-rules.yaml" | fromYaml).objects | toYaml -}}
{{- end -}}

{{- define "lite-llm.pdbVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (.Capabilities.APIVersions.Has "policy/v1") -}}
{{- end -}}
