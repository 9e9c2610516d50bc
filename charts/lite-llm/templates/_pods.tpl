{{/* What the Pods of all programs share. */}}

{{- define "lite-llm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lite-llm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where and how a Pod is scheduled: (dict "root" $ "program" .Values.operator) */}}
{{- define "lite-llm.scheduling" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .program.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .program.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .program.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .program.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The same, and apart from each other: on other Nodes, and in other zones. The latter by affinity, since one
spread constraint whose label Nodes lack makes the scheduler pass over all of them.
*/}}
{{- define "lite-llm.apart" -}}
{{- include "lite-llm.scheduling" . }}
{{- if not .program.affinity }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- range $key, $weight := dict "kubernetes.io/hostname" 100 "topology.kubernetes.io/zone" 50 }}
      - weight: {{ $weight }}
        podAffinityTerm:
          topologyKey: {{ $key }}
          labelSelector:
            matchLabels:
              {{- include "lite-llm.selector" $ | nindent 14 }}
      {{- end }}
{{- end }}
topologySpreadConstraints:
  {{- if .program.topologySpreadConstraints }}
  {{- toYaml .program.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "lite-llm.selector" . | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* Labels and annotations of a Pod: (dict "root" $ "component" "agent" "program" ... "pool" "") */}}
{{- define "lite-llm.podMetadata" -}}
labels:
  {{- include "lite-llm.selector" . | nindent 2 }}
  {{- with .root.Values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .program.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .program.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Variables that every program of ours has. */}}
{{- define "lite-llm.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- if and (eq .root.Values.etcd.mode "external") .root.Values.etcd.external.userSecret }}
- name: LITE_LLM_ETCD_USER
  valueFrom: {secretKeyRef: {name: {{ .root.Values.etcd.external.userSecret | quote }}, key: user}}
{{- end }}
{{- with .program.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments that every program of ours has. */}}
{{- define "lite-llm.args" -}}
- {{ printf "--etcd=%s" (include "lite-llm.etcd.endpoints" .root) | quote }}
{{- if include "lite-llm.etcd.tlsSecret" .root }}
- --etcd-ca=/etc/lite-llm/etcd/ca.crt
{{- if or (eq .root.Values.etcd.mode "embedded") .root.Values.etcd.external.clientCertificate }}
- --etcd-cert=/etc/lite-llm/etcd/tls.crt
- --etcd-key=/etc/lite-llm/etcd/tls.key
{{- end }}
{{- end }}
- --log-level={{ .root.Values.log.level }}
- --log-format={{ .root.Values.log.format }}
{{- range .program.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Those of programs that speak to each other by gRPC. */}}
{{- define "lite-llm.tlsArgs" -}}
{{- if ne .root.Values.tls.mode "none" }}
- --tls-ca=/etc/lite-llm/tls/ca.crt
- --tls-cert=/etc/lite-llm/tls/tls.crt
- --tls-key=/etc/lite-llm/tls/tls.key
- --tls-server-name={{ include "lite-llm.tls.serverName" . }}
{{- end }}
{{- end -}}

{{- define "lite-llm.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "lite-llm.etcd.tlsSecret" .root }}
- {name: etcd-tls, mountPath: /etc/lite-llm/etcd, readOnly: true}
{{- end }}
{{- if and .tls (ne .root.Values.tls.mode "none") }}
- {name: tls, mountPath: /etc/lite-llm/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "lite-llm.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with include "lite-llm.etcd.tlsSecret" .root }}
- name: etcd-tls
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- if and .tls (ne .root.Values.tls.mode "none") }}
- name: tls
  secret: {secretName: {{ printf "%s-%s-tls" (include "lite-llm.fullname" .root) .component | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Probes of /healthz and /readyz at the named port. */}}
{{- define "lite-llm.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 90
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
{{- end -}}
