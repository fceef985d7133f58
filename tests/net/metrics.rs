//! Checks the metrics of a real daemon, and that packaging/ asks for no others.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    legacy,
    node::{
        Kind::{Meshd, Tinc10, Tinc11},
        Node, on_one_wire,
    },
    traffic::wait_ping,
    world::{World, run, wait_until},
};

/// The names that cli/meshctl.md section 4.4 freezes and that this mesh has something to tell of.
const NAMES: &str = "meshd_build_info meshd_finding meshd_peer_up meshd_peer_path meshd_peer_rtt_seconds_bucket \
    meshd_peer_loss_ratio meshd_peer_pmtu_bytes meshd_peer_rx_bytes_total meshd_peer_tx_bytes_total \
    meshd_peer_rx_packets_total meshd_peer_tx_packets_total meshd_peer_last_seen_timestamp_seconds \
    meshd_peer_legacy meshd_drops_total meshd_meta_messages_total meshd_meta_queue_bytes \
    meshd_storm_brake_total meshd_config_reload_success meshd_key_age_seconds meshd_key_expiry_timestamp_seconds \
    meshd_config_drift_files meshd_worker_busy_ratio \
    meshd_resident_memory_bytes meshd_links meshd_downgrades_refused_total";

/// Answer of a socket to a request.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("meshd_")).collect()
}

/// Adds MetricsListen to the configuration, which tinc's own tool does not know.
fn listen_at(node: &Node, place: &str) {
    let file = node.dir().join("tinc.conf");
    let text = fs::read_to_string(&file).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("MetricsListen"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(file, format!("{text}MetricsListen = {place}\n")).unwrap();
}

#[test]
fn prometheus_gets_what_the_rules_and_the_dashboard_ask_for() {
    let world = World::new();
    let wire = world.wire();
    let [mut a, mut b, mut c] = on_one_wire(&world, &wire, [Meshd, Tinc11, Tinc10]);
    c.connect_to(&["a"]);
    let socket = a.dir().join("prometheus.sock");
    listen_at(&a, &format!("unix:{}", socket.display()));
    let host = a.dir().join("hosts/b");
    let text = fs::read_to_string(&host).unwrap();
    fs::write(host, format!("{text}Expires = 2100-06-01T00:00:00Z\n")).unwrap();
    legacy::bring_up(&mut a, &mut b);
    c.start();
    wait_ping(&a, &c.v4(), 56);

    let get = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let text = wait_until("every metric is there", Duration::from_secs(20), || {
        let answer = ask(UnixStream::connect(&socket).unwrap(), get);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        let have = names(body);
        let missing: Vec<_> = NAMES
            .split(' ')
            .filter(|name| !name.is_empty() && !have.contains(name))
            .collect();
        match missing.is_empty() {
            true => Ok(body.to_owned()),
            false => Err(format!("{missing:?} of\n{body}")),
        }
    });
    for line in [
        "meshd_peer_up{peer=\"b\"} 1",
        "meshd_peer_path{peer=\"b\",path=\"udp\"} 1",
        "meshd_peer_path{peer=\"b\",path=\"down\"} 0",
        "meshd_peer_legacy{peer=\"b\"} 0",
        "meshd_peer_legacy{peer=\"c\"} 1",
        "meshd_links{dialect=\"sptps\"} 1",
        "meshd_links{dialect=\"legacy\"} 1",
        "meshd_config_reload_success 1",
        "meshd_config_drift_files 0",
        "meshd_key_expiry_timestamp_seconds{peer=\"b\"} 4115491200",
        "meshd_meta_messages_total{type=\"ack\",dir=\"in\"} 2",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "no {line} in\n{text}"
        );
    }
    promtool(&text);

    // Nothing else is asked for.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for file in ["prometheus/meshd.rules.yml", "grafana/meshd.json"] {
        let asked = fs::read_to_string(root.join(file)).unwrap();
        let unknown: Vec<_> = names(&asked).difference(&names(&text)).copied().collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }

    for request in [
        "GET / HTTP/1.1\r\n",
        "POST /metrics HTTP/1.1\r\n",
        "GET /metrics/x HTTP/1.1\r\n",
    ] {
        let request = format!("{request}Host: a\r\nConnection: close\r\n\r\n");
        let answer = ask(UnixStream::connect(&socket).unwrap(), &request);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    let garbage = "x".repeat(100_000);
    let answer = UnixStream::connect(&socket).map(|mut stream| {
        let _ = stream.write_all(garbage.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert!(!answer.unwrap().contains(" 200 "));

    // A reload that fails shows; the same text comes by meshctl, also into a file.
    let host = a.dir().join("tinc.conf");
    let good = fs::read_to_string(&host).unwrap();
    fs::write(&host, format!("{good}Mode = bridge\n")).unwrap();
    assert!(!a.meshctl().arg("reload").status().unwrap().success());
    let shown = run(a.meshctl().arg("metrics"));
    assert!(
        shown.contains("\nmeshd_config_reload_success 0\n"),
        "{shown}"
    );
    fs::write(&host, good).unwrap();
    run(a.meshctl().arg("reload"));
    let file = a.dir().join("meshd.prom");
    run(a.meshctl().args(["metrics", "--textfile"]).arg(&file));
    let written = fs::read_to_string(&file).unwrap();
    assert!(
        written.contains("\nmeshd_config_reload_success 1\n"),
        "{written}"
    );

    a.stop();
    assert!(!socket.exists());
    let port = "127.0.0.1:9655";
    listen_at(&a, port);
    a.start();
    let asking = a.host.inside(move || {
        wait_until("the port is open", Duration::from_secs(10), || {
            let stream = TcpStream::connect(port);
            stream
                .map(|stream| ask(stream, get))
                .map_err(|error| error.to_string())
        })
    });
    let answer = asking.join().unwrap();
    assert!(answer.contains("meshd_build_info{"), "{answer}");
    for node in [&mut a, &mut b, &mut c] {
        node.assert_runs();
    }
}

fn promtool(text: &str) {
    let default =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/prometheus/usr/bin/promtool");
    let program = std::env::var_os("MESHD_PROMTOOL").map_or(default, Into::into);
    let mut command = Command::new(&program);
    let command = command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(
        child.wait().unwrap().success(),
        "promtool finds fault with\n{text}"
    );
}
