//! Reads a whole configuration: selects the files, their order, and the severity of problems.
//!
//! Source: config/tinc.md sections 1.1 and 1.5, proto/design.md section 2.5 (c).

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

use crate::{
    Config, Problem, Source, cross_check, host,
    host_files::{HostFiles, cost, hosts},
    merged::{self, CliOption, Tree},
    resolve::build,
    secrets,
    tincconf::Trouble,
    toml,
    written::WrittenLines,
};

/// Reads all files. On a reload, `last` is the configuration in force: an invalid host file keeps its last version, a
/// removed one is removed. Blocks, also on name resolution.
///
/// Errors: all problems of the whole tree, if at least one of them affects more than another node.
pub fn load(source: &Source, last: Option<&Config>) -> Result<Config, Vec<Problem>> {
    let mut ours = Vec::new();
    let options = merged::options(&source.options, &mut ours);
    let mut tree = daemon_tree(source, &options, &mut ours);
    let name = name_of(&tree, &mut ours);
    let (mut theirs, mut taken) = (Vec::new(), HostFiles::default());
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
    let (of_node, refused) = tree.drop_misplaced(true);
    theirs.extend(of_node);
    ours.extend(refused);
    tree.drop_peer_side();
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
            not_taken: taken.not_taken,
            written: WrittenLines {
                ours: tree.written(&BTreeSet::new()),
                hosts: taken.written,
            },
        }),
        _ => Err(problems),
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
    let mut ignored = Vec::new();
    let options = merged::options(&source.options, &mut ignored);
    let mut tree = daemon_tree(source, &options, &mut ignored);
    let name = name_of(&tree, &mut ignored)?;
    own_host(source, &name, &options, &mut tree, &mut ignored);
    let relative = host::host_path(source, &name);
    let text = host::pem_text(source, &relative);
    host::key(&tree, &source.base, &relative, &text, &mut ignored)?
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
    let mut ignored = Vec::new();
    let options = merged::options(&source.options, &mut ignored);
    let tree = match node {
        Some(node) => {
            let mut tree = Tree::default();
            let relative = host::host_path(source, node);
            add_file(source, &relative, Trouble::is_tear, &mut tree, &mut ignored);
            tree
        }
        None => {
            let mut tree = daemon_tree(source, &options, &mut ignored);
            if let Some(name) = name_of(&tree, &mut ignored) {
                own_host(source, &name, &options, &mut tree, &mut ignored);
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
    relative: &Path,
    broken: fn(&Trouble) -> bool,
    tree: &mut Tree,
    problems: &mut Vec<Problem>,
) {
    if let Some((_, lines)) = host::read_lines(source, relative, broken, problems) {
        tree.add_lines(relative, lines);
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
    let relative = host::host_path(source, name);
    problems.extend(host::two_forms(source, name));
    if !source.has(&relative) {
        let text = "no such file; without it this node has no subnets and port 655";
        problems.push(Problem::warning(&relative, 0, text));
        return;
    }
    add_file(source, &relative, Trouble::is_tear, tree, problems);
    problems.extend(host::private_block(
        &relative,
        &host::pem_text(source, &relative),
    ));
}
