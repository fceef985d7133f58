//! `meshctl capture`: its arguments, and what it says of a daemon that refuses.

use std::fs;

use meshd::api::{
    call::{self, Request},
    proto::{Capturing, ErrorCode, PacketKind, Response},
};

use crate::{
    daemon::{Daemon, refuse},
    meshctl, run,
};

/// A daemon with a capture of nothing; what was asked for is told by what it refuses.
fn quiet(request: Request) -> Option<Response> {
    let Request::Capture(call::Capture { kinds, peer, snap }) = request else {
        panic!("{request:?}");
    };
    Some(match peer.as_deref() {
        None => Response::Capturing(Capturing { frames: false }),
        Some("nobody") => refuse(ErrorCode::Unknown, "no node \"nobody\" is known"),
        Some("secret") => refuse(ErrorCode::Permission, "only root may do that"),
        Some("busy") => refuse(ErrorCode::Refused, "another capture is running"),
        Some(_) => {
            let words: Vec<_> = kinds.iter().copied().map(PacketKind::word).collect();
            refuse(ErrorCode::Refused, &format!("{} {snap}", words.join(" ")))
        }
    })
}

#[test]
fn arguments_become_the_request() {
    let daemon = Daemon::new(quiet);
    for (arguments, asked) in [
        (&[][..], "inner 262144"),
        (&["--outer"], "outer 262144"),
        (&["--meta", "--snap", "64"], "meta 64"),
        (&["--meta", "--outer", "--inner"], "inner outer meta 262144"),
    ] {
        let (code, out, err) = daemon.run(&[&["capture", "db_01"], arguments].concat());
        assert_eq!(
            (code, out.as_str(), err),
            (8, "", format!("meshctl: {asked}\n"))
        );
    }
    for (peer, code) in [("nobody", 4), ("secret", 5), ("busy", 8)] {
        assert_eq!(daemon.run(&["capture", peer]).0, code);
    }
    for bad in [
        ["--count", "0"],
        ["--seconds", "0"],
        ["--snap", "0"],
        ["--snap", "262145"],
    ] {
        assert_eq!(run(&[&["capture"][..], &bad].concat()).0, 2, "{bad:?}");
    }
    assert_eq!(run(&["--socket", "/nonexistent/socket", "capture"]).0, 3);
}

#[test]
fn a_file_is_whole_and_for_its_owner_though_nothing_came() {
    use std::os::unix::fs::PermissionsExt as _;

    let daemon = Daemon::new(quiet);
    let path = daemon.dir.path().join("x.pcapng");
    let name = path.to_str().unwrap();
    let (code, out, err) = daemon.run(&["capture", "--seconds", "1", "--meta", "-w", name]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(
        err, "meshctl: 0 packets captured, 0 dropped\n",
        "nothing of it is inner"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = fs::read(&path).unwrap();
    let socket = daemon.socket();
    let piped = [
        "--socket",
        socket.to_str().unwrap(),
        "capture",
        "--seconds",
        "1",
        "-w",
        "-",
    ];
    let output = meshctl(&piped).output().unwrap();
    assert_eq!(output.stdout[..4], file[..4]);
    assert_eq!(file[..4], 0x0a0d_0d0a_u32.to_ne_bytes());
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        warned.contains("inner packets are not encrypted"),
        "{warned}"
    );
    let (code, _, err) = daemon.run(&["capture", "-w", "/nonexistent/x.pcapng"]);
    assert!(
        code == 1 && err.contains("cannot write /nonexistent/x.pcapng"),
        "{err}"
    );
}
