//! `meshctl generate`: prints completions and man pages from the definitions of the programs.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use meshd_config::{
    options,
    toml::keys::{File, Form, RSA_TEXT, SCHEMA},
    vars::{self, Honoured, Ignoring, Place, Reload, VARS, Var, Version},
};
use meshd_os::files::write_given;

use crate::{
    Exit, Failure, Outcome,
    args::{Cli, Generate},
    context::Context,
    output,
};

pub(super) fn run(_: &Context, kind: Generate, out: Option<PathBuf>, page: &str) -> Outcome {
    let mut text = Vec::new();
    let mut command = Cli::command();
    let mut complete = |shell: Shell, text: &mut Vec<u8>| {
        clap_complete::generate(shell, &mut command, "meshctl", text);
    };
    match (kind, out) {
        (Generate::Man, Some(dir)) => {
            return write_all(&dir).map(|()| Exit::Fine).map_err(|error| {
                let text = format!(
                    "cannot write into {}: {error}; try `--out .`",
                    dir.display()
                );
                Failure::new(Exit::Negative, text)
            });
        }
        (Generate::Man, None) => render(page, &mut text)?,
        (Generate::Bash, _) => complete(Shell::Bash, &mut text),
        (Generate::Zsh, _) => complete(Shell::Zsh, &mut text),
        (Generate::Fish, _) => complete(Shell::Fish, &mut text),
    }
    output::bytes(&text)?;
    Ok(Exit::Fine)
}

fn render(page: &str, out: &mut Vec<u8>) -> io::Result<()> {
    match page {
        "meshd" => meshd().to_writer(out),
        "meshd.conf" => variables().to_writer(out),
        "meshd.toml" => keys().to_writer(out),
        _ => Man::new(Cli::command()).render(out),
    }
}

/// Writes meshctl and its commands to section 1, the files to section 5, the daemon to section 8.
fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // `generate_to` follows symbolic links, so it writes into a directory that only this user can write.
    let own = dir.join(format!(".pages{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&own)?;
    let made = clap_mangen::generate_to(Cli::command(), &own).and_then(|()| {
        fs::read_dir(&own)?.try_for_each(|page| {
            let page = page?;
            write_given(&dir.join(page.file_name()), &fs::read(page.path())?, 0o644)
        })
    });
    fs::remove_dir_all(&own)?;
    made?;
    for (page, file) in [
        ("meshd", "meshd.8"),
        ("meshd.conf", "meshd.conf.5"),
        ("meshd.toml", "meshd.toml.5"),
    ] {
        let mut text = Vec::new();
        render(page, &mut text)?;
        write_given(&dir.join(file), &text, 0o644)?;
    }
    Ok(())
}

fn title(roff: &mut Roff, name: &str, section: &str, what: &str) {
    roff.control(
        "TH",
        [
            name,
            section,
            "",
            concat!("meshd ", env!("CARGO_PKG_VERSION")),
        ],
    );
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {what}"))]);
}

/// Makes meshd(8) from the text of `meshd --help`. A line of an option begins with a blank.
fn meshd() -> Roff {
    let mut roff = Roff::new();
    title(
        &mut roff,
        "meshd",
        "8",
        "mesh VPN daemon compatible with tinc",
    );
    let (mut head, mut in_options) = (true, false);
    for line in options::HELP.lines() {
        let option = line
            .trim_start()
            .strip_prefix('-')
            .map(|_| line.trim_start());
        let parts = option.and_then(|option| option.split_once("  "));
        if let Some(usage) = line.strip_prefix("Usage: ") {
            roff.control("SH", ["SYNOPSIS"]);
            roff.text([bold(usage)]);
            roff.control("SH", ["DESCRIPTION"]);
        } else if let Some((form, help)) = parts {
            if !std::mem::replace(&mut in_options, true) {
                roff.control("SH", ["OPTIONS"]);
            }
            roff.control("TP", []);
            roff.text([bold(form)]);
            roff.text([roman(help.trim())]);
            head = false;
        } else if !line.is_empty() {
            if !head && std::mem::replace(&mut in_options, false) {
                roff.control("SH", ["SEE ALSO"]);
                roff.text([
                    bold("meshctl"),
                    roman("(1), "),
                    bold("meshd.conf"),
                    roman("(5)"),
                ]);
                roff.control("PP", []);
            }
            roff.text([roman(line)]);
        }
    }
    roff
}

/// Makes meshd.conf(5) from the table of variables.
fn variables() -> Roff {
    let mut roff = Roff::new();
    title(
        &mut roff,
        "meshd.conf",
        "5",
        "configuration of meshd in tinc's form",
    );
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "meshd reads tinc's files: tinc.conf, conf.d/*.conf, and hosts/NAME, one for each node including this one. \
         A line is KEY = VALUE; a line that begins with # is a comment; keys have no case. \
         A variable may appear in either kind of file. The lower line number wins in any file; \
         options on the command line override all lines.",
    )]);
    for (heading, wanted) in [
        ("VARIABLES OF TINC.CONF", [Place::Server, Place::Server]),
        ("VARIABLES OF HOST FILES", [Place::Host, Place::Both]),
    ] {
        roff.control("SH", [heading]);
        let mut vars: Vec<&Var> = VARS
            .iter()
            .filter(|var| wanted.contains(&var.place))
            .collect();
        vars.sort_by_key(|var| var.name.to_ascii_lowercase());
        vars.into_iter().for_each(|var| entry(&mut roff, var));
    }
    see_also(&mut roff, "meshd.toml");
    roff
}

fn see_also(roff: &mut Roff, page: &str) {
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("meshd"),
        roman("(8), "),
        bold("meshctl"),
        roman("(1), "),
        bold(page),
        roman("(5)"),
    ]);
}

/// Makes meshd.toml(5) from the tables of keys.
fn keys() -> Roff {
    let mut roff = Roff::new();
    title(
        &mut roff,
        "meshd.toml",
        "5",
        "configuration of meshd in TOML",
    );
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(format!(
        "Instead of tinc's files, meshd reads meshd.toml, conf.d/*.toml and hosts/NAME.toml, one for each node including this \
         one. Each key is a variable that meshd.conf(5) describes. meshd.toml begins with schema = {SCHEMA}. \
         If several files set a key, the later file wins; arrays grow. An unknown key is an error. \
         The default of StrictSubnets is yes here. `meshctl convert` converts one form to the other."
    ))]);
    for (heading, file) in [
        ("MESHD.TOML", File::Daemon),
        ("HOSTS/NAME.TOML", File::Host),
    ] {
        roff.control("SH", [heading]);
        for key in file.keys() {
            roff.control("TP", []);
            let array = if key.many && !matches!(key.form, Form::Labelled | Form::Rule) {
                "an array of "
            } else {
                ""
            };
            roff.text([
                bold(key.path()),
                roman(" = "),
                italic(format!("{array}{}", key.wanted())),
            ]);
            let var = vars::find(key.var);
            let text = var.map_or_else(String::new, |var| format!(" {}", about(var)));
            roff.text([roman(format!("{}.{text}", key.var))]);
        }
        if file == File::Host {
            roff.control("TP", []);
            roff.text([bold(RSA_TEXT), roman(" = "), italic("text in quotes")]);
            roff.text([roman("The node's RSA public key as PEM (legacy protocol).")]);
        }
    }
    see_also(&mut roff, "meshd.conf");
    roff
}

fn entry(roff: &mut Roff, var: &Var) {
    roff.control("TP", []);
    let mut form = vec![bold(var.name), roman(" = "), italic(var.kind.form())];
    if !var.default.is_empty() {
        form.push(roman(format!(" ({})", var.default)));
    }
    roff.text(form);
    roff.text([roman(about(var))]);
}

/// Returns the help of a variable with notes on its use.
fn about(var: &Var) -> String {
    let notes = [
        (var.multiple, "May appear several times."),
        (var.reload == Reload::Restart, "A change needs a restart."),
        (
            var.reload == Reload::NewLinks,
            "A change applies to new links.",
        ),
        (
            var.version == Version::Meshd,
            "meshd only; tinc ignores it.",
        ),
        (var.version == Version::V10, "tinc 1.0 only."),
        (
            var.guards,
            "An invalid value is an error, where tinc only warns.",
        ),
    ];
    let notes = notes
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, note)| note.to_owned());
    let ignored = match var.honoured {
        Honoured::NotYet(Ignoring::Safe(instead)) => Some(format!(
            "meshd does not support it yet and ignores it with a warning: {instead}."
        )),
        Honoured::NotYet(Ignoring::Unsafe(instead)) => Some(format!(
            "meshd does not support it yet and refuses any value but {}: {instead}.",
            var.default
        )),
        Honoured::Yes | Honoured::NoEffect => None,
    };
    let text: Vec<String> = std::iter::once(var.help.to_owned())
        .chain(notes)
        .chain(ignored)
        .collect();
    text.join(" ")
}
