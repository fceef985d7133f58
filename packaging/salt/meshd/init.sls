# All nets of the pillar that this minion is a host of. A reload, and nothing more, and only where a file has changed.
{%- from 'meshd/map.jinja' import nets with context %}

include:
  - meshd.keys

{%- for net, n in nets.items() %}

{{ n.dir }}/{{ n.main }}:
  file.managed:
    - source: salt://meshd/files/{{ n.main }}.jinja
    - template: jinja
    - context: {config: {{ n.config | json }}}
    - mode: '0644'
    - check_cmd: meshctl -c {{ n.dir }} check --as {{ n.main if n.toml else 'daemon' }}
    - require: [{file: {{ n.dir }}/hosts}]
    - listen_in: [{service: {{ n.service }}}]

{%- for script in ['tinc_up', 'tinc_down'] if n.host.get(script) %}

{{ n.dir }}/{{ script | replace('_', '-') }}:
  file.managed:
    - contents: {{ n.host[script] | json }}
    - mode: '0755'
    - require: [{file: {{ n.dir }}/hosts}]
    - require_in: [{service: {{ n.service }}}]
{%- endfor %}

{#- For pillars that have it already: better without, each minion with a key of its own. #}
{%- if n.host.get('RSAPrivateKey') %}

{{ n.dir }}/rsa_key.priv:
  file.managed:
    - contents_pillar: tinc:{{ net }}:{{ n.own }}:RSAPrivateKey
    - user: {{ n.user }}
    - mode: '0600'
    - show_changes: False
    - require: [{file: {{ n.dir }}/hosts}]
    - require_in: [{service: {{ n.service }}}]
    - listen_in: [{service: {{ n.service }}}]
{%- endif %}

{%- for name, host in n.hosts.items() %}

{{ n.dir }}/hosts/{{ name }}{{ n.ending }}:
  file.managed:
    - source: salt://meshd/files/host{{ n.ending }}.jinja
    - template: jinja
    - context:
        config: {{ host.config | json }}
        rsa: {{ host.rsa | json }}
        own_key: {{ (n.dir if name == n.own and n.keygen and not host.config.get('Ed25519PublicKey')) | default(none, true) | json }}
        keygen: {{ n.keygen | json }}
    - mode: '0644'
    - check_cmd: meshctl -c {{ n.dir }} check --as {{ 'hosts/' ~ name ~ '.toml' if n.toml else 'host:' ~ name }}
    - require:
      - file: {{ n.dir }}/hosts
      {%- if name == n.own and n.keygen %}
      - cmd: {{ net }}, its key
      {%- endif %}
    - listen_in: [{service: {{ n.service }}}]
{%- endfor %}

{#- Of a host that no key is known of the file stays as it is: an empty mine is no order to remove everybody. #}
{%- for name in n.doubled | unique %}

{{ net }}, {{ name }} has two minions:
  test.fail_without_changes:
    - name: more than one minion speaks for {{ name }}; write `minion: ID` of the right one at tinc:{{ net }}:{{ name }} of the pillar
{%- endfor %}

{#- Removed from the pillar. What is no host file by its name is somebody else's. #}
{%- set there = salt['file.readdir'](n.dir ~ '/hosts') if salt['file.directory_exists'](n.dir ~ '/hosts') else [] %}
{%- for file in there | sort if file | regex_match('^([A-Za-z0-9_]+)' ~ n.ending | replace('.', '[.]') ~ '$') %}
{%- set name = file | replace('.toml', '') %}
{%- if name not in n.hosts and name not in n.waiting and salt['file.file_exists'](n.dir ~ '/hosts/' ~ file) %}

{{ n.dir }}/hosts/{{ file }}:
  file.absent:
    - listen_in: [{service: {{ n.service }}}]
{%- endif %}
{%- endfor %}

{{ n.service }}:
  service.running:
    - enable: True
    - reload: True
    - require:
      - file: {{ n.dir }}/{{ n.main }}
      - file: {{ n.dir }}/hosts/{{ n.own }}{{ n.ending }}
{%- endfor %}
