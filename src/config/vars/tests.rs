//! Every row, from its line to the settings and back, and through a reload.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration,
};

use meshd_api::change::{Change, ChangeKind, When};
use meshd_crypto::{PrivateKey, Rng, noise::StaticSecret, rsa::RsaPrivate};
use meshd_proto::{
    mesh::settings::{HostAddress, MinProtocol, SubnetPolicy},
    route::{Forwarding, SourceCheck},
};
use meshd_wire::{NodeName, Options, Subnet};
use tempfile::TempDir;

use super::*;
use crate::{
    AddressFamily, Config, DeviceType, MetricsListen, Problem, Routes, Sandbox, Source,
    allow::Allow,
    diff::{diff, in_force},
    keys, load,
};

mod effect;

/// Rows that a reload cannot change by a line of their own, each with the reason.
const APART: [(&str, &str); 5] = [
    ("Name", "a reload refuses another name"),
    (
        "ExperimentalProtocol",
        "`no` needs an RSA key: tests/config/legacy.rs",
    ),
    (
        "PrivateKey",
        "it needs its public half: tests/config/legacy.rs",
    ),
    ("PublicKey", "it needs a number: tests/config/legacy.rs"),
    ("Ed25519PublicKey", "the base tree has one"),
];

fn key(seed: u8) -> PrivateKey {
    PrivateKey::generate(&mut Rng::new([seed; 32]))
}

/// A tree of web_01, which knows db_01, with the key files that examples name.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir(at("hosts")).unwrap();
    fs::write(at("tinc.conf"), "Name = web_01\n").unwrap();
    for (file, seed) in [("ed25519_key.priv", 1), ("next.priv", 2)] {
        keys::write_private(&at(file), &key(seed)).unwrap();
    }
    let rsa = RsaPrivate::generate(1024, &mut Rng::new([1; 32])).unwrap();
    fs::write(at("rsa.priv"), rsa.to_pem().as_bytes()).unwrap();
    for (file, digit) in [("native.priv", "11"), ("psk", "22")] {
        fs::write(at(file), digit.repeat(32)).unwrap();
    }
    for file in ["rsa.priv", "native.priv", "psk"] {
        fs::set_permissions(at(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for (name, seed) in [("web_01", 1), ("db_01", 3)] {
        let text = format!("Ed25519PublicKey = {}\n", key(seed).public());
        fs::write(at("hosts").join(name), text).unwrap();
    }
    dir
}

fn source(dir: &TempDir) -> Source {
    Source {
        base: dir.path().into(),
        ..Source::default()
    }
}

/// Returns the configuration after a line was added to a file.
fn with_line(
    dir: &TempDir,
    line: &str,
    var: &Var,
    last: Option<&Config>,
) -> Result<Config, Vec<Problem>> {
    let file = dir.path().join(file_of(var));
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{before}{line}\n")).unwrap();
    let loaded = load(&source(dir), last);
    fs::write(&file, before).unwrap();
    loaded
}

fn file_of(var: &Var) -> &'static str {
    match (
        var.mesh.is_some() || var.shell.is_some(),
        var.host.is_some(),
    ) {
        (false, true) => "hosts/db_01",
        _ => "tinc.conf",
    }
}

fn read_rows() -> impl Iterator<Item = &'static Var> {
    VARS.iter().filter(|var| {
        let has_field = var.mesh.is_some() || var.shell.is_some() || var.host.is_some();
        has_field && !APART.iter().any(|(name, _)| *name == var.name)
    })
}

/// Returns what the first field of a variable prints.
fn printed(var: &Var, config: &Config) -> Vec<String> {
    let host = config.settings.hosts.values().next().unwrap();
    let mesh = var.mesh.map(|field| (field.print)(&config.settings));
    let shell = || var.shell.map(|field| (field.print)(&config.shell));
    let of_host = || var.host.map(|field| (field.print)(host));
    mesh.or_else(shell).or_else(of_host).unwrap_or_default()
}

#[test]
fn every_row_is_complete() {
    let mut names = BTreeSet::new();
    for var in VARS {
        let name = var.name;
        assert!(names.insert(name), "{name} twice");
        assert!(
            var.help.ends_with(['.', '`']) && !var.help.contains('\n'),
            "{name}"
        );
        assert!(
            !var.example.is_empty() && var.example != var.default,
            "{name}"
        );
        let read = var.mesh.is_some() || var.shell.is_some() || var.host.is_some();
        // Key files are read with the key that they hold; PrivateKey with PrivateKeyFile.
        let with_others = matches!(
            name,
            "Ed25519PublicKeyFile" | "PublicKeyFile" | "PrivateKey"
        );
        assert_eq!(read || with_others, var.honoured == Honoured::Yes, "{name}");
        match var.kind {
            Kind::Word(words) if !var.default.is_empty() => {
                assert!(words.contains(&var.default), "{name}");
            }
            Kind::Bool => assert!(matches!(var.default, "yes" | "no"), "{name}"),
            Kind::Int | Kind::Seconds | Kind::Bytes | Kind::Port if !var.default.is_empty() => {
                assert!(var.default.parse::<u32>().is_ok(), "{name}");
            }
            _ => {}
        }
    }
}

/// The line of the example is added: the change is foretold as the table has it, the reload does that and no more.
#[test]
fn every_row_is_read_compared_and_put_in_force_as_it_says() {
    let dir = tree();
    let before = load(&source(&dir), None).unwrap();
    for var in read_rows() {
        let name = var.name;
        let line = format!("{} = {}", name.to_ascii_lowercase(), var.example);
        let after = with_line(&dir, &line, var, Some(&before))
            .unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        let file = Path::new(file_of(var));
        let wrong = after.problems.iter().filter(|p| p.error || p.file == file);
        let wrong: Vec<_> = wrong
            .filter(|p| !p.text.contains("has no Address"))
            .collect();
        if !matches!(name, "ConnectTo" | "Revoked" | "Expires") {
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
        }
        let changes = diff(&before, &after);
        if matches!(name, "Allow" | "Cipher" | "Digest") && file.starts_with("hosts") {
            continue;
        }
        let of_row: Vec<&Change> = changes
            .iter()
            .filter(|change| change.key.as_deref() == Some(name))
            .collect();
        let [change] = of_row[..] else {
            panic!("{name}: {changes:?}")
        };
        let when = match var.reload {
            Reload::Live | Reload::LiveIfNarrower => When::Now,
            Reload::NewLinks => When::Reconnect,
            Reload::Restart => When::Restart,
        };
        let wanted = Change {
            kind: ChangeKind::Added,
            file: Some(file.display().to_string()),
            line: Some(2),
            key: Some(name.into()),
            old: None,
            new: Some(line.clone()),
            when,
        };
        assert_eq!(*change, wanted);
        // Other variables may follow, but nothing beyond them.
        let in_force = in_force(&before, &after);
        let again = diff(&in_force, &after);
        let waiting: Vec<_> = changes
            .iter()
            .filter(|c| c.when == When::Restart)
            .cloned()
            .collect();
        assert_eq!(again, waiting, "{name}");
        assert_eq!(
            diff(&before, &in_force).len() + waiting.len(),
            changes.len(),
            "{name}"
        );
    }
}

#[test]
fn every_default_written_out_is_no_change() {
    let dir = tree();
    let before = load(&source(&dir), None).unwrap();
    for var in read_rows().filter(|var| !var.default.is_empty() && var.name != "PrivateKeyFile") {
        let line = format!("{} = {}", var.name, var.default);
        let after = with_line(&dir, &line, var, Some(&before)).unwrap();
        assert_eq!(diff(&before, &after), [], "{line}");
    }
}

#[test]
fn every_value_is_printed_as_it_can_be_read() {
    let dir = tree();
    let mut count = 0;
    for var in read_rows() {
        let line = format!("{} = {}", var.name, var.example);
        let first = with_line(&dir, &line, var, None).unwrap();
        let values = printed(var, &first);
        // Keys are printed as their public half, secrets not at all.
        let is_secret = matches!(var.kind, Kind::Path) && var.name != "Device" || var.hidden;
        if values.is_empty() || is_secret {
            assert!(
                is_secret || matches!(var.name, "Allow"),
                "{} prints nothing",
                var.name
            );
            continue;
        }
        let lines: Vec<String> = values
            .iter()
            .map(|value| format!("{} = {value}", var.name))
            .collect();
        let second = with_line(&dir, &lines.join("\n"), var, None).unwrap();
        assert_eq!(diff(&first, &second), [], "{lines:?}");
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

/// `meshctl check` shows the line of a value that is not of the row's kind.
#[test]
fn every_invalid_value_has_a_problem_at_its_line() {
    let dir = tree();
    let mut count = 0;
    for var in read_rows().filter(|var| !matches!(var.kind, Kind::Text | Kind::Path)) {
        let line = format!("{} = ;;", var.name);
        let problems = match with_line(&dir, &line, var, None) {
            Ok(config) => config.problems,
            Err(problems) => problems,
        };
        let at = |problem: &Problem| problem.file == Path::new(file_of(var)) && problem.line == 2;
        assert!(problems.iter().any(at), "{line}: {problems:?}");
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

/// The name of a field, and a change of it.
type Edit<T> = (&'static str, fn(&mut T));

/// For each field of a struct a change of it. A field that is not listed does not compile.
macro_rules! each_field {
    ($type:ident { $($field:ident: $change:expr),* $(,)? }) => {{
        let _ = |all: $type| {
            let $type { $($field: _),* } = all;
        };
        let all: Vec<Edit<$type>> = vec![
            $((stringify!($field), |to: &mut $type| to.$field = $change)),*
        ];
        all
    }};
}

/// Asserts that a row compares each of these fields, but for those that are compared elsewhere or not at all.
fn assert_rows<T: Clone + 'static>(
    base: &T,
    fields: Vec<Edit<T>>,
    column: fn(&Var) -> Option<Field<T>>,
    without: &[&str],
) {
    for (field, change) in fields {
        let mut other = base.clone();
        change(&mut other);
        let rows = VARS.iter().filter_map(column);
        let compared = rows.filter(|row| !(row.same)(base, &other)).count() > 0;
        assert_eq!(
            compared,
            !without.contains(&field),
            "field {field}: add a row, or say why not"
        );
    }
}

#[test]
fn every_field_has_a_row() {
    let settings = Settings::new(NodeName::new("a").unwrap(), Arc::new(key(1)));
    let fields = each_field!(Settings {
        name: NodeName::new("b").unwrap(),
        key: Arc::new(key(2)),
        sptps: false,
        rsa: Some(Arc::new(
            RsaPrivate::generate(1024, &mut Rng::new([2; 32])).unwrap()
        )),
        suite: {
            let mut suite = meshd_proto::tunnel::legacy::Suite::default_of_tinc();
            suite.compression = 9;
            suite
        },
        secret: Arc::new(StaticSecret::from_bytes(zeroize::Zeroizing::new([7; 32]))),
        native: true,
        min_protocol: Some(MinProtocol::Native),
        learn_keys: true,
        psk: zeroize::Zeroizing::new([7; 32]),
        port: 7,
        has_address: false,
        options: Options(0),
        subnets: vec![Subnet::from_config("10.0.0.0/8").unwrap()],
        broadcast_subnets: vec![Subnet::from_config("10.0.0.0/8").unwrap()],
        hosts: [(NodeName::new("c").unwrap(), Arc::default())].into(),
        connect_to: vec![NodeName::new("b").unwrap()],
        auto_connect: true,
        meta_rate: 7,
        route: meshd_proto::route::RouteSettings {
            direct_only: true,
            ..Default::default()
        },
        mac_expire: Duration::from_secs(1),
        subnet_policy: SubnetPolicy::Open,
        strict_subnets: true,
        local_discovery: false,
        udp_discovery: false,
        udp_discovery_interval: Duration::from_secs(1),
        udp_discovery_keepalive: Duration::from_secs(1),
        udp_discovery_timeout: Duration::from_secs(1),
        udp_info_interval: Duration::from_secs(1),
        mtu_info_interval: Duration::from_secs(1),
        ping_interval: Duration::from_secs(1),
        ping_timeout: Duration::from_secs(1),
        key_expire: Duration::from_secs(1),
        max_timeout: Duration::from_secs(1),
        weight: Some(7),
        pmtu: Some(1400),
        replay_window: 8,
    });
    // The port is the shell's, host files are compared one by one, and has_address is a bit of dumps.
    assert_rows(
        &settings,
        fields,
        |var| var.mesh,
        &["port", "has_address", "hosts"],
    );
}

#[test]
fn every_field_of_the_router_has_a_row() {
    let settings = Settings::new(NodeName::new("a").unwrap(), Arc::new(key(1)));
    use meshd_proto::route::{Broadcast, Mode, RouteSettings};
    let fields = each_field!(RouteSettings {
        mode: Mode::Hub,
        forwarding: Forwarding::Off,
        broadcast: Broadcast::No,
        decrement_ttl: true,
        direct_only: true,
        priority_inheritance: true,
        tunnel_server: true,
        source_check: SourceCheck::Strict,
    });
    for (field, change) in fields {
        let mut other = settings.clone();
        change(&mut other.route);
        let mut rows = VARS.iter().filter_map(|var| var.mesh);
        assert!(
            rows.any(|row| !(row.same)(&settings, &other)),
            "field {field}: add a row"
        );
    }
}

#[test]
fn every_field_of_the_shell_has_a_row() {
    let fields = each_field!(Shell {
        interface: Some("mesh0".into()),
        device: Some("/dev/tun".into()),
        device_type: DeviceType::Tap,
        interface_addresses: vec![([10, 0, 0, 1].into(), 8)],
        interface_routes: Routes {
            auto: true,
            ..Routes::default()
        },
        interface_mtu: Some(1400),
        port: 7,
        listen: vec!["127.0.0.1:7".parse().unwrap()],
        bound: vec!["127.0.0.1:7".parse().unwrap()],
        bind: vec!["127.0.0.1:7".parse().unwrap()],
        bind_to_interface: Some("eth0".into()),
        address_family: AddressFamily::V4,
        fwmark: 7,
        metrics_listen: MetricsListen::Nowhere,
        key_made: Some(std::time::SystemTime::UNIX_EPOCH),
        workers: 2,
        simd: true,
        udp_rcvbuf: 7,
        udp_sndbuf: 7,
        scripts_interpreter: Some("/bin/sh".into()),
        scripts_extension: ".sh".into(),
        run_scripts: Some(Vec::new()),
        scripts_at_start: Some(Vec::new()),
        allow: vec![Allow::parse("* *").unwrap()],
        sandbox: Sandbox::High,
        nice: Some(10),
        log_level: 3,
        pmtu_discovery: true,
    });
    // The time of the key is shown only, and the scripts at the start are a copy.
    assert_rows(
        &Shell::default(),
        fields,
        |var| var.shell,
        &["key_made", "scripts_at_start"],
    );
}

#[test]
fn every_field_of_a_host_file_has_a_row() {
    let fields = each_field!(Host {
        key: Some(key(4).public()),
        bad_key: Some("torn".into()),
        rsa: Some(
            RsaPrivate::generate(1024, &mut Rng::new([3; 32]))
                .unwrap()
                .public()
        ),
        null_cipher: true,
        null_digest: true,
        next: Some(key(4).public()),
        next_from: Some(7),
        expires: Some(7),
        revoked: Some(7),
        revoked_reason: Some("stolen".into()),
        shut_out: Some("revoked".into()),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        native: Some(StaticSecret::of(&key(4)).public()),
        min: Some(MinProtocol::Native),
        source_check: Some(SourceCheck::Strict),
        psk: Some(zeroize::Zeroizing::new([7; 32])),
        addresses: vec![HostAddress {
            host: "a".into(),
            port: 7
        }],
        subnets: vec![Subnet::from_config("10.0.0.0/8").unwrap()],
        indirect: true,
        tcp_only: true,
        clamp_mss: Some(true),
        pmtu: Some(1400),
        weight: Some(7),
        cached: vec!["127.0.0.1:7".parse().unwrap()],
    });
    // psk.d is compared by file; the others follow from the time and from our own cache.
    assert_rows(
        &Host::default(),
        fields,
        |var| var.host,
        &["shut_out", "psk", "cached"],
    );
}
