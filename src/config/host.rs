//! Host files: `hosts/NAME`, one a node. A broken one costs that node only.
//!
//! Source: config/tinc.md sections 1.1 and 2.2, T44 of proto/threat-model.md.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use zeroize::Zeroizing;

use meshd_crypto::PublicKey;
use meshd_proto::{
    mesh::settings::{Host, HostAddress, MinProtocol},
    route::{MTU, SourceCheck},
};
use meshd_wire::{NodeName, Subnet};

use crate::{
    Problem, Source,
    allow::Allow,
    cache, files, keys, legacy,
    merged::{self, CliOption, Reader, Tree},
    tincconf::{self, Lines, Trouble},
    toml::{self, keys::File},
    values, vars,
};

/// Seconds of a day.
const DAY: u64 = 86_400;
/// How long before Expires warnings begin.
const WARN_BEFORE: u64 = 30 * DAY;

/// What a host file gave.
pub(super) struct HostFile {
    /// `None`: it is torn or its key is bad, so that nothing in it can be relied on.
    pub(super) host: Option<Host>,
    /// An error among them means that something in the file was not understood.
    pub(super) problems: Vec<Problem>,
    /// Its Subnet lines.
    pub(super) subnets: Vec<merged::Entry>,
    /// A key that cannot be read, where the node has an RSA key as well: what it costs depends on our own keys.
    pub(super) bad_key: Option<Problem>,
    /// Whether its last line has no newline: it may just be written, or its editor writes none.
    pub(super) unterminated: bool,
    /// Whether its end is missing: that of a block, or of a last line that cannot be read.
    pub(super) cut_short: bool,
}

/// The host file of `name`, at need. Errors: everything that makes the file unusable.
pub fn load_host(source: &Source, name: &NodeName) -> Result<Host, Vec<Problem>> {
    let options = merged::options(&source.options, &mut Vec::new());
    let file = read(source, name, &options);
    file.host.ok_or(file.problems)
}

/// Whether a file ends in the middle of a line that cannot be read: it may just be written.
fn ends_in_bad_line(bytes: &[u8], problems: &[Problem]) -> bool {
    let last = bytes.split(|byte| *byte == b'\n').count();
    let mut bad = problems.iter().filter(|problem| problem.error);
    bad.any(|problem| problem.line == last)
}

/// A warning where a host file holds a private key: who has the file is that node.
pub(super) fn private_block(shown: &Path, bytes: &[u8]) -> Option<Problem> {
    let mut lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    let (_, line) = lines.find(|(line, _)| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches(['#', ' ', '\t']);
        line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY")
    })?;
    let text = "holds a private key: whoever has read this file can pass for that node, so it must be replaced; make a new \
                key there and remove the block here";
    Some(Problem::warning(shown, line, text))
}

pub(super) fn read(source: &Source, name: &NodeName, options: &[CliOption]) -> HostFile {
    let base = &source.base;
    let shown = host_path(source, name);
    let mut problems = Vec::new();
    let (mut host, mut subnets, mut bad_key) = (None, Vec::new(), None);
    let (mut unterminated, mut cut_short) = (false, false);
    problems.extend(two_forms(source, name));
    if let Some((bytes, lines)) = read_lines(source, &shown, Trouble::is_tear, &mut problems) {
        // An empty file is what a copy in progress looks like.
        let has_key = keys::public_block(&bytes).is_some()
            || bytes.windows(11).any(|text| text == b"PUBLIC KEY-");
        if lines.lines.is_empty() && !has_key && problems.is_empty() {
            problems.push(Problem::error(
                &shown,
                0,
                "says nothing; copy it from that node again",
            ));
        }
        // A block without an end costs what stands behind it, as in tinc; unless that is more than the block.
        let open = open_block(&lines, &bytes);
        unterminated = !toml::is_toml(&shown) && !bytes.ends_with(b"\n");
        let torn = problems.iter().any(|p| p.error && Some(p.line) != open);
        problems.extend(private_block(&shown, &bytes));
        let mut tree = Tree::default();
        tree.add_options(options, Some(name.as_str()));
        tree.add_lines(&shown, lines);
        problems.extend(tree.drop_misplaced(false).0);
        problems.extend(tree.remarks(false));
        let mut bad = Vec::new();
        let mut key = key(&tree, base, &shown, &bytes, &mut bad);
        let needed = key.flatten().is_none();
        let rsa = legacy::public_key(&tree, base, &shown, &bytes, needed, &mut problems);
        // The RSA key of a node is good whatever has become of its other one.
        if key.is_none() && rsa.is_some() {
            (key, bad_key) = (Some(None), bad.pop());
        }
        problems.append(&mut bad);
        let torn = torn || needed && rsa.is_none() && problems.iter().any(|p| p.error);
        let psk = psk(base, name, &mut problems);
        let mut reader = Reader::new(&tree);
        let read = host_of(&mut reader, cache::read(base, name));
        let read = restrictions(&mut reader, read);
        problems.extend(
            read.as_ref()
                .and_then(|read| ending(&tree, read, unix_now())),
        );
        subnets.extend(tree.all("Subnet").cloned());
        problems.append(&mut reader.problems);
        cut_short = open.is_some() || unterminated && ends_in_bad_line(&bytes, &problems);
        host = key
            .zip(psk)
            .zip(read)
            .filter(|_| !torn)
            .map(|((key, psk), read)| Host {
                key,
                bad_key: bad_key.as_ref().map(|bad| bad.text.clone()),
                rsa,
                psk,
                ..read
            });
    }
    HostFile {
        host,
        problems,
        subnets,
        bad_key,
        unterminated,
        cut_short,
    }
}

/// The line of a block without an end behind which nothing but its own content was lost.
fn open_block(lines: &Lines, bytes: &[u8]) -> Option<usize> {
    let open = lines
        .remarks
        .iter()
        .find(|remark| remark.what == Trouble::OpenBlock)?;
    let lost = bytes.split(|byte| *byte == b'\n').skip(open.number);
    let mut keys = lost.map(|line| tincconf::split(&String::from_utf8_lossy(line)).0);
    (!keys.any(|key| vars::find(&key).is_some())).then_some(open.number)
}

/// The host file of a node, relative to the configuration directory: `hosts/NAME`, unless there is only
/// `hosts/NAME.toml`.
#[must_use]
pub fn host_path(source: &Source, name: &NodeName) -> PathBuf {
    let [tincs, ours] = forms(name);
    match !source.has(&tincs) && source.has(&ours) {
        true => ours,
        false => tincs,
    }
}

fn forms(name: &NodeName) -> [PathBuf; 2] {
    let dir = Path::new("hosts");
    [dir.join(name.as_str()), dir.join(format!("{name}.toml"))]
}

/// Nobody could tell which of two files counts.
pub(super) fn two_forms(source: &Source, name: &NodeName) -> Option<Problem> {
    let [tincs, ours] = forms(name);
    let both = source.has(&tincs) && source.has(&ours);
    both.then(|| {
        let text = format!("there is {} too; remove one of the two", ours.display());
        Problem::error(&tincs, 0, text)
    })
}

/// What of a host file may hold keys as PEM.
pub(super) fn pem_text(source: &Source, shown: &Path) -> Vec<u8> {
    let read = read_lines(source, shown, |_| false, &mut Vec::new());
    read.map(|(text, _)| text).unwrap_or_default()
}

/// What of a file may hold keys as PEM, and what the lexer made of it; `None` (with an error) if it cannot be read.
/// `broken` says what of the lexer's remarks is an error.
pub(super) fn read_lines(
    source: &Source,
    shown: &Path,
    broken: fn(&Trouble) -> bool,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<u8>, Lines)> {
    let bytes = match files::read_text(&source.path(shown)) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.push(Problem::error(shown, 0, error.to_string()));
            return None;
        }
    };
    if toml::is_toml(shown) {
        let file = match shown.starts_with("hosts") {
            true => File::Host,
            false => File::Daemon,
        };
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(Problem::error(
                shown,
                0,
                "is no UTF-8 text; save it as such",
            ));
            return None;
        };
        let document = toml::parse(&text, shown, file, problems);
        return Some((document.rsa.unwrap_or_default().into(), document.lines));
    }
    let lines = tincconf::parse(&bytes);
    problems.extend(lines.remarks.iter().map(|remark| Problem {
        error: broken(&remark.what),
        file: shown.into(),
        line: remark.number,
        column: 0,
        text: remark.what.to_string(),
    }));
    Some((bytes, lines))
}

/// The node's key: the line, else the file that is named, else the block in the host file itself.
/// Outer `None`: there is one and it is bad.
#[expect(
    clippy::option_option,
    reason = "no key is a legal host file, a bad key is not"
)]
pub(super) fn key(
    tree: &Tree,
    base: &Path,
    shown: &Path,
    own_text: &[u8],
    problems: &mut Vec<Problem>,
) -> Option<Option<PublicKey>> {
    let (found, place) = if let Some(entry) = tree.first("Ed25519PublicKey") {
        (Some(keys::public_key(&entry.value)), entry.clone())
    } else if let Some(entry) = tree.first("Ed25519PublicKeyFile") {
        let block = files::read_text(&base.join(&entry.value))
            .map(|bytes| keys::public_block(&bytes))
            .unwrap_or_else(|error| Some(Err(format!("{}: {error}", entry.value))));
        let none = || Err(format!("{} holds no Ed25519 public key", entry.value));
        (Some(block.unwrap_or_else(none)), entry.clone())
    } else {
        let place = merged::Entry {
            file: shown.into(),
            ..merged::Entry::default()
        };
        (keys::public_block(own_text), place)
    };
    match found {
        Some(Ok(key)) => Some(Some(key)),
        Some(Err(error)) => {
            problems.push(place.error(error));
            None
        }
        None => Some(None),
    }
}

/// The secret that we share with this node alone, if there is a file for it. Outer `None`: there is one
/// and it is bad.
#[expect(
    clippy::option_option,
    reason = "no secret is legal, a bad secret is not"
)]
fn psk(
    base: &Path,
    name: &NodeName,
    problems: &mut Vec<Problem>,
) -> Option<Option<Zeroizing<[u8; 32]>>> {
    let shown = Path::new("psk.d").join(name.as_str());
    match base.join(&shown).symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(None),
        _ => keys::read_secret(&base.join(&shown), &shown, problems).map(Some),
    }
}

/// Further keys, MinProtocol and how long all of it holds. `None` if one of them is there and bad: to go on
/// without it would ask less of the node than the file does.
fn restrictions(reader: &mut Reader<'_>, host: Host) -> Option<Host> {
    let before = reader.problems.len();
    let host = Host {
        next: reader.one("Ed25519PublicKeyNext", |text| {
            PublicKey::from_base64(text).map_err(|error| format!("Ed25519PublicKeyNext: {error}"))
        }),
        next_from: reader.one("Ed25519PublicKeyNextFrom", values::moment),
        native: reader.one("NativePublicKey", keys::native_key),
        min: min_protocol(reader),
        source_check: source_check(reader),
        expires: reader.one("Expires", values::moment),
        revoked: reader.one("Revoked", values::moment),
        revoked_reason: reader.text("RevokedReason"),
        ..host
    };
    (reader.problems.len() == before).then_some(host)
}

/// MinProtocol, if it is there.
pub(super) fn min_protocol(reader: &mut Reader<'_>) -> Option<MinProtocol> {
    reader.tree.first("MinProtocol")?;
    Some(match reader.word("MinProtocol") {
        "native" => MinProtocol::Native,
        "legacy" => MinProtocol::Legacy,
        _ => MinProtocol::Sptps,
    })
}

/// SourceCheck, if it is there.
fn source_check(reader: &mut Reader<'_>) -> Option<SourceCheck> {
    reader.tree.first("SourceCheck")?;
    Some(super::resolve::source_check(reader))
}

/// A warning where Expires is near, or past.
fn ending(tree: &Tree, host: &Host, now: u64) -> Option<Problem> {
    let entry = tree.first("Expires").filter(|_| host.revoked.is_none())?;
    let text = match host.expires?.checked_sub(now) {
        None | Some(0) => {
            "this node has expired and is not spoken to; set a later time or remove the file".into()
        }
        Some(left) if left < WARN_BEFORE => format!(
            "this node expires in {} days and is not spoken to from then on; set a later time",
            left / DAY
        ),
        Some(_) => return None,
    };
    Some(entry.warning(text))
}

#[expect(
    clippy::disallowed_methods,
    reason = "files speak of wall times, and are read off the driver's thread"
)]
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Everything but the keys.
fn host_of(reader: &mut Reader<'_>, cached: Vec<std::net::SocketAddr>) -> Host {
    let port = reader
        .one("Port", values::port)
        .unwrap_or(values::DEFAULT_PORT);
    let tcp_only = reader.flag("TCPOnly");
    let [null_cipher, null_digest] = legacy::nulls(reader);
    // Of that node's firewall; here only its mistakes count.
    reader.each("Allow", Allow::parse);
    Host {
        null_cipher,
        null_digest,
        addresses: addresses(reader, port),
        subnets: reader.each("Subnet", Subnet::from_config),
        indirect: reader.flag("IndirectData") || tcp_only,
        tcp_only,
        clamp_mss: reader.boolean("ClampMSS"),
        pmtu: pmtu(reader),
        weight: reader.int("Weight"),
        labels: reader.each("Label", values::label).into_iter().collect(),
        cached,
        ..Host::default()
    }
}

/// Address lines.
fn addresses(reader: &mut Reader<'_>, port: u16) -> Vec<HostAddress> {
    for entry in reader.tree.all("Address") {
        if let Some((host, port)) = entry.value.split_once(':')
            && !host.is_empty()
            && port.bytes().all(|digit| digit.is_ascii_digit())
        {
            let text = format!(
                "{:?} is taken for a name; write `{host} {port}`",
                entry.value
            );
            reader.problems.push(entry.warning(text));
        }
    }
    reader.each("Address", |text| values::address(text, port))
}

/// PMTU, in bytes with the Ethernet header.
pub(super) fn pmtu(reader: &mut Reader<'_>) -> Option<u16> {
    let pmtu = reader.int("PMTU").filter(|pmtu| *pmtu > 0)?;
    Some(u16::try_from(pmtu).unwrap_or(MTU).min(MTU))
}
