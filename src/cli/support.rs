//! `meshctl support`: writes a support bundle, without secrets, into one tar file.
//!
//! Source: cli/meshctl.md section 4.3.

mod redact;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;

use meshd_api::{
    call::{self, Request},
    client::Client,
};
use meshd_config::{Source, files};
use meshd_os::{clock, files::write_given};

use crate::{Exit, Failure, Outcome, args::Format, context::Context, log, output};

/// Commands whose output goes into the bundle. A missing program is noted there.
const COMMANDS: [(&str, &[&str]); 8] = [
    ("uname", &["-a"]),
    ("ip", &["-d", "-s", "link"]),
    ("ip", &["address"]),
    ("ip", &["route", "show", "table", "all"]),
    ("ip", &["-6", "route", "show", "table", "all"]),
    ("ip", &["rule"]),
    ("nft", &["list", "ruleset"]),
    ("ss", &["-lntu"]),
];
/// Variables that name files with secrets.
const KEYS: [&str; 4] = [
    "Ed25519PrivateKeyFile",
    "PrivateKeyFile",
    "NativePrivateKeyFile",
    "PresharedKeyFile",
];
/// Log lines from the journal.
const LINES: &str = "3000";

#[derive(Serialize)]
struct Data<'a> {
    file: String,
    members: Vec<&'a str>,
}

/// Returns exit code 1 if the bundle cannot be written. The bundle notes a daemon that does not run.
pub(super) fn run(context: &Context, out: Option<PathBuf>) -> Outcome {
    let mut bundle: Vec<(String, String)> = Vec::new();
    let running = context
        .connect()
        .and_then(|client| daemon(client, &mut bundle));
    let (source, node) = match (running, context.source(None)) {
        (Ok((source, node)), _) => (source, Some(node)),
        (Err(failure), Ok(source)) => {
            bundle.push(("daemon.txt".into(), format!("{}\n", failure.text)));
            (source, None)
        }
        (Err(failure), Err(_)) => return Err(failure),
    };
    let mut secrets = files_of(&source, &mut bundle);
    let unit = source
        .net
        .as_deref()
        .map_or_else(|| "meshd".into(), |net| format!("meshd@{net}"));
    let journal = ["-u", &unit, "-n", LINES, "--no-pager", "-o", "short-iso"];
    bundle.push(("log.txt".into(), output_of("journalctl", &journal)));
    // The daemon's memory has more levels than the journal.
    if let Ok(lines) = log::recorded(context) {
        bundle.push(("recorder.txt".into(), lines));
    }
    for (program, arguments) in COMMANDS {
        let name = format!(
            "system/{program}_{}.txt",
            arguments.join("_").replace('-', "")
        );
        bundle.push((name, output_of(program, arguments)));
    }
    secrets.extend(in_files(&source));
    for (_, text) in &mut bundle {
        *text = redact::without(text, &secrets);
    }
    let time = clock::rfc3339(clock::wall());
    let node = node.or_else(|| {
        meshd_config::own_name(&source)
            .ok()
            .map(|name| name.to_string())
    });
    let stem = format!(
        "meshd-{}-{}",
        node.as_deref().unwrap_or("node"),
        time.replace([':', '-'], "")
    );
    let file = out.unwrap_or_else(|| format!("{stem}.tar").into());
    let tar =
        tar(&stem, &bundle).map_err(|error| Failure::new(Exit::Negative, error.to_string()))?;
    write_given(&file, &tar, 0o600).map_err(|error| {
        let text = format!(
            "cannot write {}: {error}; name another file with `--out`",
            file.display()
        );
        Failure::new(Exit::Negative, text)
    })?;
    if context.format == Format::Json {
        let frame = output::Frame {
            net: source.net.as_deref(),
            node: node.as_deref(),
            time: &time,
        };
        let data = Data {
            file: file.display().to_string(),
            members: bundle.iter().map(|(name, _)| name.as_str()).collect(),
        };
        return output::json("support", &frame, &data);
    }
    output::print(|out| writeln!(out, "{}", file.display()))?;
    output::complain(
        "the bundle holds no private keys and no shared secrets, but it holds addresses, names and firewall rules: read it before you send it",
    );
    Ok(Exit::Fine)
}

/// Adds the daemon's status and tables; returns the place of its files and its name.
fn daemon(
    mut client: Client,
    bundle: &mut Vec<(String, String)>,
) -> Result<(Source, String), Failure> {
    let status = client.ask(call::Status {})?;
    let source = Source {
        base: status.response.config.into(),
        net: status.net,
        ..Source::default()
    };
    for (name, request) in [
        ("status", Request::from(call::Status {})),
        ("peers", call::Peers {}.into()),
        ("routes", call::Routes {}.into()),
        ("refused", call::Refused {}.into()),
        ("nodes", call::Nodes {}.into()),
        ("edges", call::Edges {}.into()),
        ("connections", call::Connections {}.into()),
    ] {
        let answer = client.ask_any(request)?;
        let text = serde_json::to_string_pretty(&answer).unwrap_or_default();
        bundle.push((format!("daemon/{name}.json"), text));
    }
    let metrics = client.ask(call::Metrics {})?;
    bundle.push(("daemon/metrics.txt".into(), metrics.response));
    Ok((source, status.node))
}

/// Adds the configuration without its secrets, and the names of all other files there. Returns the secrets.
fn files_of(source: &Source, bundle: &mut Vec<(String, String)>) -> Vec<String> {
    let mut secrets = Vec::new();
    let mut wanted = vec![meshd_config::main_file(source).to_path_buf()];
    for dir in ["conf.d", "hosts"] {
        let names = files::names(&source.base.join(dir)).unwrap_or_default();
        wanted.extend(names.iter().map(|name| Path::new(dir).join(name)));
    }
    for file in wanted {
        let text = match files::read_text(&source.base.join(&file)) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                secrets.extend(redact::by_shape(&text));
                redact::config(&text)
            }
            Err(error) => format!("{error}\n"),
        };
        bundle.push((format!("config/{}", file.display()), text));
    }
    let mut names = String::new();
    for dir in ["", "conf.d", "hosts", "keys", "psk.d", "cache"] {
        for name in files::names(&source.base.join(dir)).unwrap_or_default() {
            let path = Path::new(dir).join(name);
            let size = fs::metadata(source.base.join(&path)).map_or(0, |meta| meta.len());
            names.push_str(&format!("{size}\t{}\n", path.display()));
        }
    }
    bundle.push(("config/files.txt".into(), names));
    secrets
}

/// Returns the content of all files with secrets.
fn in_files(source: &Source) -> Vec<String> {
    let named = KEYS.iter().filter_map(|variable| {
        let (_, _, value) = meshd_config::place_of(source, None, variable)?;
        Some(PathBuf::from(value))
    });
    let usual = ["ed25519_key.priv", "rsa_key.priv"].map(PathBuf::from);
    let mut all: Vec<PathBuf> = named.chain(usual).collect();
    for dir in ["psk.d", "keys", "invitations"] {
        let names = files::names(&source.base.join(dir)).unwrap_or_default();
        let names = names.iter().filter(|name| !name.ends_with(".pub"));
        all.extend(names.map(|name| Path::new(dir).join(name)));
    }
    let texts = all
        .iter()
        .filter_map(|file| files::read_text(&source.base.join(file)).ok());
    texts.flat_map(|text| redact::secrets(&text)).collect()
}

/// Returns a program's output and error output, or the reason why it cannot run.
fn output_of(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let [out, err] = [&output.stdout, &output.stderr]
                .map(|text| String::from_utf8_lossy(text).into_owned());
            format!("$ {program} {}\n{out}{err}", arguments.join(" "))
        }
        Err(error) => format!("$ {program} {}\n{error}\n", arguments.join(" ")),
    }
}

fn tar(stem: &str, bundle: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let time = clock::unix();
    for (name, text) in bundle {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        tar.append_data(&mut header, format!("{stem}/{name}"), text.as_bytes())?;
    }
    tar.into_inner()
}
