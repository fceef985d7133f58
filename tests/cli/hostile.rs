//! Traps of a member or of another user of the machine: escapes for the terminal, links in the place of files.

use std::{fs, os::unix::fs::symlink, path::Path};

use meshd::{
    api::{
        call::Request,
        proto::{Capturing, Response},
        why::End,
    },
    mesh::reports::facts::PathKind,
};
use serde_json::Value;

use crate::{
    daemon::{Daemon, healthy},
    run, tree,
};

/// An OSC, an SGR, a C1 control, DEL, and what turns the direction of writing.
const HOSTILE: &str = "x\x1b]0;OWNED\x07\x1b[31;1m\u{9b}2J\x7f\u{202e}\rend";

fn hostile(request: Request) -> Option<Response> {
    if matches!(request, Request::Capture(_)) {
        return Some(Response::Capturing(Capturing { frames: false }));
    }
    let mut response = healthy(request)?;
    match &mut response {
        Response::Edges(rows) => {
            rows[0].host = HOSTILE.into();
            rows[0].local_port = HOSTILE.into();
        }
        Response::Nodes(rows) => rows[0].host = HOSTILE.into(),
        Response::Subnets(rows) => rows[0].owner = Some(HOSTILE.into()),
        Response::Peers(rows) => {
            rows[0].cipher = Some(HOSTILE.into());
            rows[1].reason.as_mut().unwrap().text = HOSTILE.into();
        }
        Response::Why(path) => {
            if let End::Other(other) = &mut path.to {
                other.report.addresses = vec![HOSTILE.into()];
                other.report.pair.via = Some(HOSTILE.into());
                other.report.pair.path = PathKind::Via;
                other.target.subnets[0].owner = Some(HOSTILE.into());
            }
        }
        Response::Status(status) => status.problems = vec![HOSTILE.into()],
        _ => {}
    }
    Some(response)
}

#[test]
fn nothing_that_a_terminal_would_obey_is_ever_printed() {
    let daemon = Daemon::new(hostile);
    for command in [
        &["dump", "edges"][..],
        &["dump", "nodes"],
        &["dump", "subnets"],
        &["dump", "graph"],
        &["peers"],
        &["status"],
        &["routes"],
        &["health"],
        &["health", "--nagios"],
        &["graph"],
        &["graph", "--format", "mermaid"],
        &["top", "-c", "1", "--interval", "100ms"],
        &["metrics"],
        &["migrate", "status"],
        &["why", "db_01"],
    ] {
        for form in [&[][..], &["--json"], &["-o", "tsv"], &["--color", "always"]] {
            let (_, out, err) = daemon.run(&[form, command].concat());
            let coloured = form.contains(&"always");
            // Our own colours, which nobody else can make.
            let plain = |text: &str| {
                let mut text = text.to_owned();
                for code in [0, 31, 32, 33, 36] {
                    text =
                        text.replace(&format!("\x1b[{code}m"), if coloured { "" } else { "\x1b" });
                }
                text
            };
            for text in [plain(&out), plain(&err)] {
                let bad =
                    |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
                assert!(!text.contains(bad), "{command:?} {form:?}: {text:?}");
            }
        }
    }
}

#[test]
fn json_has_the_value_as_it_is() {
    let daemon = Daemon::new(hostile);
    let (code, out, _) = daemon.run(&["--json", "dump", "edges"]);
    assert_eq!(code, 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["data"][0]["host"], HOSTILE);
    let (_, out, _) = daemon.run(&["dump", "edges"]);
    assert!(
        out.contains("x\\u001b]0;OWNED\\u0007\\u001b[31;1m"),
        "{out}"
    );
}

/// Links, to a file of somebody else's and to nothing, under the name that is written to.
#[test]
fn no_command_follows_a_link_at_the_place_that_it_is_given() {
    let daemon = Daemon::new(hostile);
    let tree = tree();
    let base = tree.path();
    let (target, nothing) = (base.join("target"), base.join("nothing"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for to in [&target, &nothing] {
        fs::write(&target, "theirs").unwrap();
        let link = base.join("link");
        symlink(to, &link).unwrap();
        let out = text(&link);
        for command in [
            &["support", "--out", &out][..],
            &["capture", "-w", &out],
            &["graph", "--format", "svg", "--out", &out],
            &["metrics", "--textfile", &out],
        ] {
            let (code, _, err) = daemon.run(command);
            assert_eq!(code, 1, "{command:?} {err}");
            assert!(
                err.contains("it is a link, which is not followed"),
                "{command:?}: {err}"
            );
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert!(!nothing.exists() && link.is_symlink());
        fs::remove_file(link).unwrap();
    }
    // A file of our own is replaced.
    let (code, _, err) = daemon.run(&["graph", "--format", "svg", "--out", &text(&target)]);
    assert_eq!(code, 0, "{err}");
    assert!(fs::read_to_string(&target).unwrap().contains("<svg"));
    // As are pages of the manual.
    let pages = base.join("man");
    fs::create_dir(&pages).unwrap();
    fs::write(base.join("theirs"), "theirs").unwrap();
    symlink(base.join("theirs"), pages.join("meshctl.1")).unwrap();
    assert_ne!(run(&["generate", "man", "--out", &text(&pages)]).0, 0);
    assert_eq!(fs::read_to_string(base.join("theirs")).unwrap(), "theirs");
}
