{{- define "modelyard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "modelyard.operator" -}}
{{- include "modelyard.fullname" . }}-operator
{{- end -}}

{{- define "modelyard.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "modelyard.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* A Deployment's selector can never change: neither may these. */}}
{{- define "modelyard.selectorLabels" -}}
app.kubernetes.io/name: modelyard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "modelyard.commonLabels" -}}
app.kubernetes.io/name: modelyard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "modelyard.labels" -}}
{{ include "modelyard.commonLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* The reference of one of our images: call with (list $ "operator"). */}}
{{- define "modelyard.image" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- with $root.Values.image -}}
{{- $whole := get . $part -}}
{{- $path := compact (list .registry .repository $part) | join "/" -}}
{{- $whole | default (printf "%s:%s" $path (default $root.Chart.AppVersion .tag)) -}}
{{- end -}}
{{- end -}}

{{- /*
What the operator may do, in all namespaces or in those of watchNamespaces. Which kinds and verbs these are is the code's
to say (kube/paths.py, reconcile/), and a test holds the two together.
*/}}
{{- define "modelyard.rules" -}}
# Read what users ask for, and say in its status what became of it. The operator never writes a spec.
- apiGroups: [modelyard.dev]
  resources: [modeldeployments, abtests]
  verbs: [get, list, watch]
- apiGroups: [modelyard.dev]
  resources: [modeldeployments/status, abtests/status]
  verbs: [patch]
# Children name their owner with blockOwnerDeletion; clusters with the admission plugin OwnerReferencesPermissionEnforcement
# ask for this right before they let that pass. The operator itself sets no finalizer here.
- apiGroups: [modelyard.dev]
  resources: [modeldeployments/finalizers, abtests/finalizers]
  verbs: [update]
# The children. A server-side apply of an object that is not there yet takes `create` besides `patch`. RBAC cannot tell our
# children from other objects of these kinds, and who may create Deployments may run any pod, under any ServiceAccount of
# the namespace: where that is too much to give for the whole cluster, set watchNamespaces.
- apiGroups: [apps]
  resources: [deployments, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
# Pods are read for the reason of a failure. `patch` annotates the router pods of an ABTest when its weights change, so that
# the kubelet brings the new ConfigMap to them at once and not a minute later. It would also allow labels, annotations and
# the images of other pods to be changed (a pod's spec is immutable but for images and little else): no more than what
# `create deployments` gives away already.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# Whether another installation that watches the same namespaces runs: then one stands back.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [modelyard-operator]
  verbs: [get]
{{- end -}}
