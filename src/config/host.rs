//! Host files: `hosts/NAME`, one for each node. An invalid one affects that node only.
//!
//! Source: config/tinc.md sections 1.1 and 2.2, T44 of proto/threat-model.md.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use zeroize::Zeroizing;

use meshd_crypto::PublicKey;
use meshd_proto::mesh::settings::Host;
use meshd_wire::NodeName;

use crate::{
    Problem, Source, cache, files, keys, legacy, load,
    merged::{self, CliOption, Tree},
    reader::Reader,
    tincconf::{self, Lines, Trouble},
    toml::{self, keys::File},
    vars::{self, VARS},
    written::Written,
};

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Warnings begin this long before Expires.
const WARN_BEFORE: u64 = 30 * DAY;

/// Content of a host file.
pub(super) struct HostFile {
    /// `None`: the file is torn or its key is invalid, so all of it is unreliable.
    pub(super) host: Option<Host>,
    /// Problems; an error means that meshd did not understand part of the file.
    pub(super) problems: Vec<Problem>,
    /// Its Subnet lines.
    pub(super) subnets: Vec<merged::Entry>,
    /// Its lines in effect.
    pub(super) written: Vec<Written>,
    /// An unreadable key of a node that has an RSA key too. Its consequence depends on our own keys.
    pub(super) bad_key: Option<Problem>,
    /// True if its last line has no newline: the file may be incomplete.
    pub(super) unterminated: bool,
    /// True if its end is missing: the end of a block, or an unreadable last line.
    pub(super) cut_short: bool,
}

/// Reads the host file of `name`. Errors: all problems that make the file unusable.
pub fn load_host(source: &Source, name: &NodeName) -> Result<Host, Vec<Problem>> {
    let options = merged::options(&source.options, &mut Vec::new());
    let file = read(source, name, &options);
    file.host.ok_or(file.problems)
}

/// True if a file ends in an unreadable line: the file may be incomplete.
fn ends_in_bad_line(bytes: &[u8], problems: &[Problem]) -> bool {
    let last = bytes.split(|byte| *byte == b'\n').count();
    let mut bad = problems.iter().filter(|problem| problem.error);
    bad.any(|problem| problem.line == last)
}

/// Warns if a host file holds a private key, because every reader of the file can act as that node.
pub(super) fn private_block(relative: &Path, bytes: &[u8]) -> Option<Problem> {
    let mut lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    let (_, line) = lines.find(|(line, _)| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches(['#', ' ', '\t']);
        line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY")
    })?;
    let text = "the file holds a private key, so every reader of the file can act as that node; make a new \
                key there and remove the block here";
    Some(Problem::warning(relative, line, text))
}

pub(super) fn read(source: &Source, name: &NodeName, options: &[CliOption]) -> HostFile {
    let base = &source.base;
    let relative = host_path(source, name);
    let mut problems = Vec::new();
    let (mut host, mut subnets, mut bad_key) = (None, Vec::new(), None);
    let (mut unterminated, mut cut_short, mut written) = (false, false, Vec::new());
    problems.extend(two_forms(source, name));
    if let Some((bytes, lines)) = read_lines(source, &relative, Trouble::is_tear, &mut problems) {
        // An empty file may be a copy in progress.
        let has_key = keys::public_block(&bytes).is_some()
            || bytes.windows(11).any(|text| text == b"PUBLIC KEY-");
        if lines.lines.is_empty() && !has_key && problems.is_empty() {
            problems.push(Problem::error(
                &relative,
                0,
                "the file is empty; copy it from that node again",
            ));
        }
        // A block without an end hides the lines after it, as in tinc. If it hides more than its own content, that is
        // an error.
        let open = open_block(&lines, &bytes);
        unterminated = !toml::is_toml(&relative) && !bytes.ends_with(b"\n");
        let torn = problems.iter().any(|p| p.error && Some(p.line) != open);
        problems.extend(private_block(&relative, &bytes));
        let mut tree = Tree::default();
        tree.add_options(options, Some(name.as_str()));
        tree.add_lines(&relative, lines);
        problems.extend(tree.drop_misplaced(false).0);
        problems.extend(tree.remarks(false));
        let mut bad = Vec::new();
        let mut key = key(&tree, base, &relative, &bytes, &mut bad);
        let needed = key.flatten().is_none();
        let rsa = legacy::public_key(&tree, base, &relative, &bytes, needed, &mut problems);
        // The RSA key stays valid if the other key is invalid.
        if key.is_none() && rsa.is_some() {
            (key, bad_key) = (Some(None), bad.pop());
        }
        problems.append(&mut bad);
        let torn = torn || needed && rsa.is_none() && problems.iter().any(|p| p.error);
        let psk = psk(base, name, &mut problems);
        let mut reader = Reader::new(&tree);
        let read = fields(&mut reader).map(|host| Host {
            cached: cache::read(base, name),
            ..host
        });
        problems.extend(
            read.as_ref()
                .and_then(|read| ending(&tree, read, unix_now())),
        );
        subnets.extend(tree.all("Subnet").cloned());
        problems.append(&mut reader.problems);
        let wrong = problems.iter().filter(|problem| problem.error);
        written = tree.written(&wrong.map(|problem| problem.line).collect());
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
        written,
        bad_key,
        unterminated,
        cut_short,
    }
}

/// Returns the line of a block without an end that hides only its own content.
fn open_block(lines: &Lines, bytes: &[u8]) -> Option<usize> {
    let open = lines
        .remarks
        .iter()
        .find(|remark| remark.what == Trouble::OpenBlock)?;
    let lost = bytes.split(|byte| *byte == b'\n').skip(open.number);
    let mut keys = lost.map(|line| tincconf::split(&String::from_utf8_lossy(line)).0);
    (!keys.any(|key| vars::find(&key).is_some())).then_some(open.number)
}

/// Returns the host file of a node, relative to the configuration directory: `hosts/NAME` or `hosts/NAME.toml`, whichever
/// exists. A file that is still to be written has the form of the main file.
#[must_use]
pub fn host_path(source: &Source, name: &NodeName) -> PathBuf {
    let [tincs, ours] = forms(name);
    let is_main_ours = || load::main_file(source) == Path::new(toml::MAIN);
    match !source.has(&tincs) && (source.has(&ours) || is_main_ours()) {
        true => ours,
        false => tincs,
    }
}

fn forms(name: &NodeName) -> [PathBuf; 2] {
    let dir = Path::new("hosts");
    [dir.join(name.as_str()), dir.join(format!("{name}.toml"))]
}

/// Warns of two files for one node, because the choice is ambiguous.
pub(super) fn two_forms(source: &Source, name: &NodeName) -> Option<Problem> {
    let [tincs, ours] = forms(name);
    let both = source.has(&tincs) && source.has(&ours);
    both.then(|| {
        let text = format!("{} exists too; remove one of the two", ours.display());
        Problem::error(&tincs, 0, text)
    })
}

/// Returns the text of a host file that may hold PEM keys.
pub(super) fn pem_text(source: &Source, relative: &Path) -> Vec<u8> {
    let read = read_lines(source, relative, |_| false, &mut Vec::new());
    read.map(|(text, _)| text).unwrap_or_default()
}

/// Returns the text that may hold PEM keys, and the parsed lines; `None` (with an error) if the file is unreadable.
/// `broken` selects the remarks that are errors.
pub(super) fn read_lines(
    source: &Source,
    relative: &Path,
    broken: fn(&Trouble) -> bool,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<u8>, Lines)> {
    let bytes = match files::read_text(&source.path(relative)) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.push(Problem::error(relative, 0, error.to_string()));
            return None;
        }
    };
    if toml::is_toml(relative) {
        let file = match relative.starts_with("hosts") {
            true => File::Host,
            false => File::Daemon,
        };
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(Problem::error(
                relative,
                0,
                "the file is not UTF-8 text; save it as UTF-8",
            ));
            return None;
        };
        let document = toml::parse(&text, relative, file, problems);
        return Some((document.rsa.unwrap_or_default().into(), document.lines));
    }
    let lines = tincconf::parse(&bytes);
    problems.extend(lines.remarks.iter().map(|remark| Problem {
        error: broken(&remark.what),
        file: relative.into(),
        line: remark.number,
        column: 0,
        text: remark.what.to_string(),
    }));
    Some((bytes, lines))
}

/// Returns the node's key: the line, else the named file, else the block in the host file. Outer `None`: the key exists
/// and is invalid.
#[expect(
    clippy::option_option,
    reason = "no key is a legal host file, a bad key is not"
)]
pub(super) fn key(
    tree: &Tree,
    base: &Path,
    relative: &Path,
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
            file: relative.into(),
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

/// Returns the secret that we share with this node only, if its file exists. Outer `None`: the file exists and is
/// invalid.
#[expect(
    clippy::option_option,
    reason = "no secret is legal, a bad secret is not"
)]
fn psk(
    base: &Path,
    name: &NodeName,
    problems: &mut Vec<Problem>,
) -> Option<Option<Zeroizing<[u8; 32]>>> {
    let relative = Path::new("psk.d").join(name.as_str());
    match base.join(&relative).symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Some(None),
        _ => keys::read_secret(&base.join(&relative), &relative, problems).map(Some),
    }
}

/// Reads the fields of all rows. Returns `None` if a line that restricts the node is invalid.
fn fields(reader: &mut Reader<'_>) -> Option<Host> {
    let mut host = Host::default();
    let mut sound = true;
    for var in VARS {
        let Some(field) = var.host else { continue };
        let before = reader.problems.len();
        (field.read)(reader, var.name, &mut host);
        sound &= !var.restricts || reader.problems.len() == before;
    }
    host.indirect |= host.tcp_only;
    host.null_digest = legacy::null_digest(reader);
    sound.then_some(host)
}

/// Warns if Expires is near or past.
fn ending(tree: &Tree, host: &Host, now: u64) -> Option<Problem> {
    let entry = tree.first("Expires").filter(|_| host.revoked.is_none())?;
    let text = match host.expires?.checked_sub(now) {
        None | Some(0) => {
            "this node has expired, so its links are refused; set a later time or remove the file"
                .into()
        }
        Some(left) if left < WARN_BEFORE => format!(
            "this node expires in {} days; after that its links are refused; set a later time",
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
