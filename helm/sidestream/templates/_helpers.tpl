{{- define "sidestream.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sidestream.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sidestream.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sidestream.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sidestream.injector" -}}{{ include "sidestream.fullname" . }}-injector{{- end -}}
{{- define "sidestream.gateway" -}}{{ include "sidestream.fullname" . }}-gateway{{- end -}}

{{- /* Cluster-wide names: those of two releases in two namespaces must differ. They may have 253 characters,
and these have 113 at most. */ -}}
{{- define "sidestream.clusterName" -}}
{{- printf "%s-%s" (include "sidestream.injector" .) .Release.Namespace -}}
{{- end -}}

{{- define "sidestream.certificateSecret" -}}
{{- if .Values.injector.certificate.secretName -}}
{{- .Values.injector.certificate.secretName -}}
{{- else if eq .Values.injector.certificate.source "secret" -}}
{{- fail "injector.certificate.secretName is required with source: secret" -}}
{{- else -}}
{{- include "sidestream.injector" . }}-tls
{{- end -}}
{{- end -}}

{{- /* A duration such as 10s in seconds, rounded up. */ -}}
{{- define "sidestream.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- get (dict "ms" (div (add $number 999) 1000) "s" $number "m" (mul $number 60) "h" (mul $number 3600)) (regexFind "[a-z]+$" .) -}}
{{- end -}}

{{- define "sidestream.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* Call with (list . "injector"). */ -}}
{{- define "sidestream.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "sidestream.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "sidestream.labels" -}}
{{- $root := index . 0 -}}
{{ include "sidestream.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sidestream.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Call with (list . "injector" .Values.injector). */ -}}
{{- define "sidestream.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "sidestream.selectorLabels" (list $root $component) | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
affinity:
{{- if $values.affinity }}
  {{- toYaml $values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "sidestream.selectorLabels" (list $root $component) | nindent 14 }}
{{- end }}
{{- end -}}

{{- define "sidestream.monitorLabels" -}}
{{- with .Values.monitoring.labels }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{- /* Call with (list "::" 8080). */ -}}
{{- define "sidestream.address" -}}
{{- $host := index . 0 -}}
{{ contains ":" $host | ternary (printf "[%s]" $host) $host }}:{{ index . 1 }}
{{- end -}}

{{- /* Private networks, as in src/kubernetes/injection/platform.rs. */ -}}
{{- define "sidestream.privateNetworks" -}}
127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,::1/128,fc00::/7
{{- end -}}
