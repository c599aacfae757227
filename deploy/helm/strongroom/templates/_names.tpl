{{- define "strongroom.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "strongroom.labels" -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "strongroom.selector" -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: broker
{{- end -}}

{{- define "strongroom.witness" -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: witness
{{- end -}}

{{- define "strongroom.backup" -}}
app.kubernetes.io/name: strongroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: backup
{{- end -}}

{{- /* Where the broker's records are: a folder of its volume, or a database. */ -}}
{{- define "strongroom.store" -}}
{{- with .Values.broker.database -}}
{{- if .host -}}
{{- printf "postgresql+psycopg://%s@%s:%d/%s?passfile=/run/strongroom/pgpass&sslmode=verify-full&sslrootcert=/etc/strongroom/database/ca.crt" .user .host (int .port) .name -}}
{{- else -}}
/var/lib/strongroom/store
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* libpq reads a password only from a file that nobody else may read, which no mounted Secret can be. */ -}}
{{- define "strongroom.password" -}}
- name: password
  image: {{ .Values.image.name | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - python3
    - -P
    - -s
    - -c
    - |
      import os, pathlib
      made = os.open("/run/strongroom/pgpass", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
      os.write(made, pathlib.Path("/etc/strongroom/password/pgpass").read_bytes())
  securityContext:
    allowPrivilegeEscalation: false
    privileged: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: password, mountPath: /etc/strongroom/password, readOnly: true}
    - {name: private, mountPath: /run/strongroom}
{{- end -}}

{{- define "strongroom.database-mounts" -}}
- {name: private, mountPath: /run/strongroom}
- {name: authority, mountPath: /etc/strongroom/database, readOnly: true}
{{- end -}}

{{- define "strongroom.database-volumes" -}}
- {name: private, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: password, secret: {secretName: {{ .Values.broker.database.passwordSecret }}}}
- {name: authority, configMap: {name: {{ .Values.broker.database.authorityConfigMap }}}}
{{- end -}}
