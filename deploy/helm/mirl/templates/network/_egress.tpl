{{/* Rules of NetworkPolicy's egress. */}}

{{- define "mirl.egressDNS" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{/* Public addresses at the given ports. Takes (dict "ports" LIST "private" BOOL). */}}
{{- define "mirl.egressPublic" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except:
          # Cloud metadata and the machine's own addresses, always.
          - 169.254.0.0/16
          {{- if not .private }}
          - 10.0.0.0/8
          - 100.64.0.0/10
          - 172.16.0.0/12
          - 192.168.0.0/16
          {{- end }}
    - ipBlock:
        cidr: ::/0
        except:
          - fe80::/10
          {{- if .private }}
          - fd00:ec2::254/128
          {{- else }}
          - fc00::/7
          {{- end }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/* Images by URL, where settings allow hosts. */}}
{{- define "mirl.egressImages" -}}
{{- $images := dig "images" (dict) .Values.server.settings -}}
{{- if $images.allow_hosts -}}
{{- include "mirl.egressPublic" (dict "ports" (list 80 443) "private" (default false $images.allow_private)) -}}
{{- end -}}
{{- end -}}

{{/* The model's hub. Takes (dict "uses" "true" or ""). */}}
{{- define "mirl.egressHub" -}}
{{- if .uses -}}
{{- include "mirl.egressPublic" (dict "ports" (list 443) "private" false) -}}
{{- end -}}
{{- end -}}
