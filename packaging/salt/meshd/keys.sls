# The package, a key pair that never leaves the minion, and its public half in the mine.
{%- from 'meshd/map.jinja' import nets with context %}

{%- for package in nets.values() | map(attribute='package') | unique %}
{{ package }}:
  pkg.installed
{%- endfor %}

{%- for net, n in nets.items() %}

{{ n.dir }}/hosts:
  file.directory:
    - mode: '0755'
    - makedirs: True
    - require: [{pkg: {{ n.package }}}]

{%- if n.keygen %}

{{ net }}, its key:
  cmd.run:
    - name: {{ n.keygen }}
    - creates: {{ n.dir }}/ed25519_key.priv
    - require: [{file: {{ n.dir }}/hosts}]

{#- What was sent stays in the mine, and is sent again where it is missing there or another. #}
{%- if not n.key_is_sent %}

{{ net }}, its key into the mine:
  module.run:
    - mine.send:
      - meshd_{{ net }}_key
      - mine_function: cmd.run
      - cmd: {{ n.keygen }}
    - require: [{cmd: '{{ net }}, its key'}]
{%- endif %}
{%- endif %}

{%- if n.address and not n.address_is_sent %}

{{ net }}, its addresses into the mine:
  module.run:
    - mine.send:
      - meshd_{{ net }}_address
      - mine_function: network.ip_addrs
      {%- for name, value in n.address.items() %}
      - {{ name }}: {{ value | json }}
      {%- endfor %}
{%- endif %}
{%- endfor %}
