# For UFW: each other host of a net may reach its port, from its own address, on the interface that `interface` names.
# It neither enables UFW nor changes its policies.
{%- from 'meshd/map.jinja' import nets with context %}
{%- set added = salt['cmd.run_stdout']('ufw show added').splitlines() if salt['cmd.which']('ufw') else [] %}

ufw:
  pkg.installed

{%- for net, n in nets.items() %}
{%- set port = n.config.get('Port') or n.hosts[n.own].config.get('Port') or 655 %}
{%- set from = 'allow in' ~ (' on ' ~ n.interface if n.interface else '') ~ ' from ' %}
{%- set to = ' to any ' ~ ('app Meshd' if port | string == '655' else 'port ' ~ port) %}
{%- set wanted = [] %}
{%- for name, host in n.hosts.items() if name != n.own %}
{%-   set addresses = host.config.get('Address') or [] %}
{%-   for address in ([addresses] if addresses is string else addresses) if address.split()[0] | is_ip %}
{%-     do wanted.append(from ~ address.split()[0] ~ to) %}
{%-   endfor %}
{%- endfor %}

{%- for rule in wanted | unique if 'ufw ' ~ rule not in added %}

ufw {{ rule }}:
  cmd.run:
    - require: [{pkg: ufw}]
{%- endfor %}

{%- if not n.waiting %}
{%- for rule in added if rule.startswith('ufw ' ~ from) and rule.endswith(to) and rule[4:] not in wanted %}

ufw delete {{ rule[4:] }}:
  cmd.run
{%- endfor %}
{%- endif %}
{%- endfor %}
