//! Reads a whole configuration: selects the files, their order, and the severity of problems.
//!
//! Source: config/tinc.md sections 1.1 and 1.5, proto/design.md section 2.5 (c).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use meshd_crypto::PublicKey;
use meshd_proto::mesh::settings::Host;
use meshd_wire::NodeName;

use crate::{
    Config, Problem, Source, cross_check,
    host::{self, HostFile},
    merged::{self, CliOption, Entry, Tree},
    resolve::build,
    secrets,
    tincconf::Trouble,
    toml,
    written::{Written, WrittenLines},
};

/// Maximum number of host files (proto/threat-model.md section 5.6).
const MAX_HOSTS: usize = 16_384;

/// Reads all files. On a reload, `last` is the configuration in force: an invalid host file keeps its last version, a
/// removed one is removed. Blocks, also on name resolution.
///
/// Errors: all problems of the whole tree, if at least one of them affects this node.
/// another node.
pub fn load(source: &Source, last: Option<&Config>) -> Result<Config, Vec<Problem>> {
    let mut ours = Vec::new();
    let options = merged::options(&source.options, &mut ours);
    let mut tree = daemon_tree(source, &options, &mut ours);
    let name = name_of(&tree, &mut ours);
    let (mut theirs, mut taken) = (Vec::new(), Taken::default());
    if let (Some(name), Some(last), Some(entry)) = (&name, last, tree.first("Name"))
        && *name != last.settings.name
    {
        // The tree would then be another node's, whose subnets we must not announce.
        let text = format!(
            "Name is {name}, but {} is running: restart to change it",
            last.settings.name
        );
        ours.push(entry.error(&text));
    }
    if let Some(name) = &name {
        // At start, tinc uses the readable part of its own host file. On a reload, that would withdraw subnets that a
        // torn file has lost, so the reload stops.
        let problems = if last.is_some() {
            &mut ours
        } else {
            &mut theirs
        };
        own_host(source, name, &options, &mut tree, problems);
    }
    let (told, refused) = tree.drop_misplaced(true);
    theirs.extend(told);
    ours.extend(refused);
    tree.drop_told_to_others();
    ours.extend(tree.remarks(true));
    taken.subnets = tree.all("Subnet").cloned().collect();
    let hosts = hosts(source, name.as_ref(), &options, last, &mut ours, &mut taken);
    theirs.append(&mut taken.problems);
    theirs.extend(cross_check::same_subnets(&taken.subnets));
    theirs.extend(cross_check::many_subnets(&taken.subnets));
    let built = build(source, &tree, name, hosts, last, &mut ours);
    let keys = built
        .as_ref()
        .map(|(settings, _)| (settings.sptps, settings.rsa.is_some()));
    theirs.extend(taken.bad_keys.into_iter().map(|bad| cost(bad, keys)));
    let stopped = ours.iter().any(|p| p.error);
    let mut problems = [ours, theirs].concat();
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    match built {
        Some((settings, shell)) if !stopped => Ok(Config {
            source: source.clone(),
            settings: Arc::new(settings),
            shell: Arc::new(shell),
            problems,
            not_taken: taken.not,
            written: WrittenLines {
                ours: tree.written(&BTreeSet::new()),
                hosts: taken.written,
            },
        }),
        _ => Err(problems),
    }
}

/// Results of reading the host files, besides their content.
#[derive(Default)]
struct Taken {
    /// Problems of the files.
    problems: Vec<Problem>,
    /// All Subnet lines, including our own file's.
    subnets: Vec<Entry>,
    /// Lines in effect.
    written: BTreeMap<NodeName, Arc<[Written]>>,
    /// Files that were not applied.
    not: Vec<PathBuf>,
    /// Unreadable Ed25519 keys of nodes with an RSA key.
    bad_keys: Vec<Problem>,
}

/// Sets the consequence of an unreadable key for a node with an RSA key. `keys`: true if we have an Ed25519 key, and an
/// RSA key.
fn cost(bad: Problem, keys: Option<(bool, bool)>) -> Problem {
    let (sptps, rsa) = keys.unwrap_or((true, true));
    let what = match (sptps, rsa) {
        (false, _) => "the line is ignored, because this node speaks only legacy",
        (true, true) => {
            "only its RSA key is used, so its links use legacy: correct or remove the line"
        }
        (true, false) => "this node has no RSA key, so no link is possible: correct the line",
    };
    Problem {
        error: sptps,
        text: format!("{}; {what}", bad.text),
        ..bad
    }
}

/// Returns our name from tinc.conf, conf.d and the options.
pub fn own_name(source: &Source) -> Result<NodeName, Vec<Problem>> {
    let mut problems = Vec::new();
    let options = merged::options(&source.options, &mut problems);
    let tree = daemon_tree(source, &options, &mut problems);
    let name = name_of(&tree, &mut problems);
    name.filter(|_| problems.iter().all(|p| !p.error))
        .ok_or(problems)
}

/// Returns our public Ed25519 key from our own files; `None`: missing or unreadable.
#[must_use]
pub fn own_public(source: &Source) -> Option<PublicKey> {
    let mut unheard = Vec::new();
    let options = merged::options(&source.options, &mut unheard);
    let mut tree = daemon_tree(source, &options, &mut unheard);
    let name = name_of(&tree, &mut unheard)?;
    own_host(source, &name, &options, &mut tree, &mut unheard);
    let shown = host::host_path(source, &name);
    let text = host::pem_text(source, &shown);
    host::key(&tree, &source.base, &shown, &text, &mut unheard)?
}

/// Returns the file of our Ed25519 private key.
#[must_use]
pub fn private_path(source: &Source) -> PathBuf {
    let named = place_of(source, None, "Ed25519PrivateKeyFile");
    let named = named.map_or_else(|| secrets::ED25519_KEY.into(), |(_, _, value)| value);
    source.base.join(named)
}

/// Returns file, line and value of the effective line of a variable of ours, or of the host file of `node`. Unreadable
/// files count as empty.
#[must_use]
pub fn place_of(
    source: &Source,
    node: Option<&NodeName>,
    variable: &'static str,
) -> Option<(PathBuf, usize, String)> {
    let mut unheard = Vec::new();
    let options = merged::options(&source.options, &mut unheard);
    let tree = match node {
        Some(node) => {
            let mut tree = Tree::default();
            let shown = host::host_path(source, node);
            add_file(source, &shown, Trouble::is_tear, &mut tree, &mut unheard);
            tree
        }
        None => {
            let mut tree = daemon_tree(source, &options, &mut unheard);
            if let Some(name) = name_of(&tree, &mut unheard) {
                own_host(source, &name, &options, &mut tree, &mut unheard);
            }
            tree
        }
    };
    let entry = tree.first(variable)?;
    Some((entry.file.clone(), entry.line, entry.value.clone()))
}

/// Merges options without node, tinc.conf and conf.d.
fn daemon_tree(source: &Source, options: &[CliOption], problems: &mut Vec<Problem>) -> Tree {
    let mut tree = Tree::default();
    tree.add_options(options, None);
    let (tincs, ours) = (Path::new("tinc.conf"), Path::new(toml::MAIN));
    let main = main_file(source);
    if source.has(tincs) && source.has(ours) {
        let text = format!("{} exists too; remove one of the two", toml::MAIN);
        problems.push(Problem::error(tincs, 0, text));
    }
    if source.has(main) {
        add_file(source, main, Trouble::is_failure, &mut tree, problems);
    } else {
        let text = "no such file; write `Name = NAME` into it, or name another directory with -c";
        problems.push(Problem::error(main, 0, text));
    }
    let of_form = if main == ours { "toml" } else { "conf" };
    let dir = Path::new("conf.d");
    match source.names(dir) {
        Ok(names) => names
            .iter()
            .filter(|name| Path::new(name).extension() == Some(OsStr::new(of_form)))
            .for_each(|name| {
                add_file(
                    source,
                    &dir.join(name),
                    Trouble::is_failure,
                    &mut tree,
                    problems,
                )
            }),
        Err(error) => problems.push(Problem::error(dir, 0, error.to_string())),
    }
    if main == ours {
        tree.set_default(ours, "StrictSubnets", "yes");
    }
    tree
}

/// Returns the main file, relative to the configuration directory: tinc.conf, or meshd.toml if only that exists.
#[must_use]
pub fn main_file(source: &Source) -> &'static Path {
    let (tincs, ours) = (Path::new("tinc.conf"), Path::new(toml::MAIN));
    match !source.has(tincs) && source.has(ours) {
        true => ours,
        false => tincs,
    }
}

fn add_file(
    source: &Source,
    shown: &Path,
    broken: fn(&Trouble) -> bool,
    tree: &mut Tree,
    problems: &mut Vec<Problem>,
) {
    if let Some((_, lines)) = host::read_lines(source, shown, broken, problems) {
        tree.add_lines(shown, lines);
    }
}

fn name_of(tree: &Tree, problems: &mut Vec<Problem>) -> Option<NodeName> {
    let Some(entry) = tree.first("Name") else {
        if problems.iter().all(|p| !p.error) {
            let (file, text) = match tree.is_toml() {
                true => (
                    toml::MAIN,
                    "no name; add a line `name = \"NAME\"` at its top, or name another directory with -c",
                ),
                false => (
                    "tinc.conf",
                    "no Name; add a line `Name = NAME`, or name another directory with -c",
                ),
            };
            problems.push(Problem::error(Path::new(file), 0, text));
        }
        return None;
    };
    let env = |variable: &str| std::env::var_os(variable).map(|v| v.to_string_lossy().into());
    let expanded = expand_name(&entry.value, env, || {
        rustix::system::uname().nodename().to_string_lossy().into()
    });
    match expanded.and_then(|name| NodeName::new(&name).map_err(|e| format!("invalid name: {e}"))) {
        Ok(name) => Some(name),
        Err(error) => {
            problems.push(entry.error(error));
            None
        }
    }
}

/// Expands `$VAR`: environment variable VAR, or the host name for an unset HOST; every byte that is not alphanumeric
/// becomes `_`. Other names stay.
pub fn expand_name(
    value: &str,
    env: impl Fn(&str) -> Option<String>,
    host_name: impl Fn() -> String,
) -> Result<String, String> {
    let Some(variable) = value.strip_prefix('$') else {
        return Ok(value.into());
    };
    let text = match env(variable) {
        Some(text) => text,
        None if variable == "HOST" => host_name(),
        None => {
            return Err(format!(
                "invalid name: environment variable {variable} is not set"
            ));
        }
    };
    let clean = |b: u8| {
        if b.is_ascii_alphanumeric() {
            char::from(b)
        } else {
            '_'
        }
    };
    Ok(text.bytes().map(clean).collect())
}

fn own_host(
    source: &Source,
    name: &NodeName,
    options: &[CliOption],
    tree: &mut Tree,
    problems: &mut Vec<Problem>,
) {
    tree.add_options(options, Some(name.as_str()));
    let shown = host::host_path(source, name);
    problems.extend(host::two_forms(source, name));
    if !source.has(&shown) {
        let text = "no such file; without it this node has no subnets and port 655";
        problems.push(Problem::warning(&shown, 0, text));
        return;
    }
    add_file(source, &shown, Trouble::is_tear, tree, problems);
    problems.extend(host::private_block(&shown, &host::pem_text(source, &shown)));
}

fn hosts(
    source: &Source,
    own: Option<&NodeName>,
    options: &[CliOption],
    last: Option<&Config>,
    ours: &mut Vec<Problem>,
    taken: &mut Taken,
) -> BTreeMap<NodeName, Arc<Host>> {
    let dir = Path::new("hosts");
    let names = source.names(dir).unwrap_or_else(|error| {
        ours.push(Problem::error(dir, 0, error.to_string()));
        Vec::new()
    });
    if last.is_some() && !source.base.join(dir).is_dir() {
        // The operator may be moving the tree; that must not end all links.
        let text =
            "no such directory; the configuration in force stays until the directory exists again";
        ours.push(Problem::error(dir, 0, text));
    }
    taken.problems.extend(cross_check::no_nodes(&names));
    let mut names: Vec<NodeName> = names
        .iter()
        .filter_map(|name| NodeName::new(name.strip_suffix(".toml").unwrap_or(name)).ok())
        .filter(|name| Some(name) != own)
        .collect();
    names.sort();
    names.dedup();
    if names.len() > MAX_HOSTS {
        let text = format!("more than {MAX_HOSTS} host files; meshd reads only the first ones");
        taken.problems.push(Problem::error(dir, 0, text));
        names.truncate(MAX_HOSTS);
    }
    let mut hosts = BTreeMap::new();
    for name in names {
        let mut file = host::read(source, &name, options);
        taken.subnets.append(&mut file.subnets);
        let known = last.and_then(|last| last.settings.hosts.get(&name));
        let shown = host::host_path(source, &name);
        let both = file.host.as_ref().zip(known);
        let lost = both.and_then(|(host, known)| what_is_lost(host, known, &file));
        let before = last.and_then(|last| last.written.hosts.get(&name));
        let written = match before.filter(|before| {
            lost.is_some() || file.host.is_none() || before[..] == file.written[..]
        }) {
            Some(before) => Arc::clone(before),
            None => file.written.into(),
        };
        taken.written.insert(name.clone(), written);
        let host = match (file.host, lost) {
            // As at a start: an invalid line is skipped, and the rest counts.
            (Some(host), None) => {
                taken.bad_keys.extend(file.bad_key);
                Some(Arc::new(host))
            }
            (_, lost) => {
                file.problems.extend(file.bad_key);
                file.problems
                    .extend(lost.map(|text| Problem::error(&shown, 0, text)));
                if known.is_some() {
                    let text = "the last good version of this file stays in force";
                    file.problems.push(Problem::warning(&shown, 0, text));
                }
                taken.not.push(shown);
                known.cloned()
            }
        };
        taken.problems.append(&mut file.problems);
        hosts.extend(host.map(|host| (name, host)));
    }
    taken.problems.extend(cross_check::twins(source, &hosts));
    hosts
}

/// Returns the part of `known`, the version in force, that a new file lacks, as an incomplete file would. Used on a
/// reload, which can keep the better version.
fn what_is_lost(new: &Host, known: &Host, file: &HostFile) -> Option<&'static str> {
    let keyless = new.key.is_none() && new.rsa.is_none();
    let mut subnets = known.subnets.iter();
    if file.cut_short {
        Some("the file is cut short; write it completely")
    } else if keyless && (known.key.is_some() || known.rsa.is_some()) {
        Some(
            "the file has lost its public key; write it again, or remove the file if the node is gone",
        )
    } else if new.bad_key.is_some() && known.key.is_some() {
        Some("its Ed25519 key has become unreadable; correct or remove the line")
    } else if file.unterminated && known.rsa.is_some() && new.rsa.is_none() {
        Some(
            "the file has lost its RSA key and its last newline, so it may be incomplete; add the newline",
        )
    } else if file.unterminated && subnets.any(|subnet| !new.subnets.contains(subnet)) {
        Some(
            "the file has fewer Subnet lines and no last newline, so it may be incomplete; add the newline",
        )
    } else {
        None
    }
}
