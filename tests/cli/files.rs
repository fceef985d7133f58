//! Commands that look at files and need no daemon: check, convert, keygen.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio, sync::Mutex};

use meshd::{
    api::{call::Request, proto::Response},
    config::keys,
};
use serde_json::Value;

use crate::{
    daemon::{Daemon, healthy},
    key, meshctl, run, tree,
};

#[test]
fn check_tells_every_mistake_with_its_place() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let (code, out, err) = run(&["check", dir]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        format!("{dir}: node web_01, 1 other node, 0 errors, 0 warnings\n")
    );

    let conf = tree.path().join("tinc.conf");
    fs::write(&conf, "Name = web_01\nConectTo = db_01\nHostnames = yes\n").unwrap();
    let (code, _, err) = run(&["-c", dir, "check"]);
    assert_eq!(code, 0);
    assert_eq!(
        err,
        "tinc.conf:2: warning: unknown variable \"ConectTo\", ignored; did you mean ConnectTo?\n\
         tinc.conf:3: warning: meshd does not support Hostnames yet: the log shows addresses as numbers\n"
    );
    assert_eq!(run(&["check", "--strict", dir]).0, 1);

    fs::write(tree.path().join("hosts/db_01"), "Subnet = 10.1.0.5/24\n").unwrap();
    let (code, _, err) = run(&["check", dir]);
    assert_eq!(code, 7, "a broken host file is broken configuration");
    assert!(err.contains("hosts/db_01:1: error: Subnet"), "{err}");

    fs::write(&conf, "Mode = router\nName =\n").unwrap();
    let (code, out, _) = run(&["check", dir, "--json"]);
    assert_eq!(code, 7);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], "meshctl.check/1");
    assert_eq!(json["data"]["hosts"], Value::Null);
    let problems = json["data"]["problems"].as_array().unwrap();
    let first = problems.iter().find(|p| p["file"] == "tinc.conf").unwrap();
    assert_eq!(
        (&first["line"], &first["level"]),
        (&2.into(), &"error".into())
    );
}

/// Salt's `check_cmd` and Ansible's `validate` do this: the file is elsewhere, and so is its name.
#[test]
fn check_judges_one_file_as_if_it_stood_in_its_place() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("__salt.tmp.x8k2");
    let check = |place: &str, text: &str| {
        fs::write(&file, text).unwrap();
        let (code, _, err) = run(&["-c", dir, "check", "--as", place, file.to_str().unwrap()]);
        (code, err)
    };
    let good = format!(
        "Ed25519PublicKey = {}\nSubnet = 10.9.0.0/24\n",
        key(9).public()
    );
    for place in ["host:new_01", "hosts/new_01", "host:db_01"] {
        assert_eq!(check(place, &good), (0, String::new()), "{place}");
    }
    let bad = format!("{good}Subnet = 10.9.0.1/24\n");
    let (code, err) = check("host:db_01", &bad);
    assert!(
        code == 7 && err.starts_with("hosts/db_01:3: error: Subnet"),
        "{err}"
    );
    // Whatever is wrong elsewhere is not this file's.
    fs::write(tree.path().join("hosts/other"), "Subnet = nonsense\n").unwrap();
    assert_eq!(check("host:new_01", &good), (0, String::new()));
    assert_eq!(
        check("daemon", "Name = web_01\nPingInterval = 20\n"),
        (0, String::new())
    );
    let (code, err) = check("daemon", "Name = web_01\nMode = bridge\n");
    assert!(
        code == 7 && err.starts_with("tinc.conf:2: error: "),
        "{err}"
    );

    let toml = "ed25519 = \"x\"\nsubnet = [\"10.9.0.0/24\"]\n";
    let (code, err) = check("hosts/new_01.toml", toml);
    assert_eq!(code, 7);
    assert!(
        err.contains(
            "hosts/new_01.toml:2:1: error: unknown key `subnet`; it is `subnets` here\n    \
             subnet = [\"10.9.0.0/24\"]\n    ^\n"
        ),
        "{err}"
    );
    // The form is that of the file that is there.
    fs::remove_file(tree.path().join("tinc.conf")).unwrap();
    fs::write(tree.path().join("meshd.toml"), "name = \"web_01\"\n").unwrap();
    assert_eq!(check("daemon", "name = \"web_01\"\n"), (0, String::new()));
    let (code, err) = check("daemon", "name = \"web_01\"\n[trust]\n  native = 1\n");
    assert!(
        code == 7 && err.contains("\n      native = 1\n               ^\n"),
        "{err}"
    );
    let place = "host:web_02.toml";
    assert_eq!(run(&["check", "--as", place, "x"]).0, 2);
    assert_eq!(run(&["check", "--as", "../x", "x"]).0, 2);
    assert_eq!(run(&["check", "--as", "daemon"]).0, 2);
}

#[test]
fn convert_writes_the_other_form_elsewhere_and_check_accepts_it() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let (code, out, err) = run(&["convert", "--to", "toml", "--dry-run", dir]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains("### tinc.conf -> meshd.toml\nschema = 1\nname = \"web_01\"\n"),
        "{out}"
    );

    let other = tempfile::tempdir().unwrap();
    let into = other.path().to_str().unwrap();
    let convert = || run(&["-c", dir, "convert", "--to", "toml", "--out", into]);
    let (code, out, err) = convert();
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("tinc.conf -> meshd.toml\nhosts/db_01 -> hosts/db_01.toml\n"),
        "{out}"
    );
    fs::copy(
        tree.path().join("ed25519_key.priv"),
        other.path().join("ed25519_key.priv"),
    )
    .unwrap();
    assert_eq!(run(&["check", "--strict", into]).0, 0);
    let (code, _, err) = convert();
    assert!(code == 8 && err.contains("exists already"), "{err}");
    assert_eq!(run(&["convert", "--to", "toml", "--dry-run", into]).0, 4);

    let (code, out, _) = run(&["convert", "--to", "tinc", "--dry-run", "--json", into]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &json["schema"]),
        (0, &Value::from("meshctl.convert/1"))
    );
    let main = json["data"][0]["text"].as_str().unwrap();
    assert!(
        main.contains("Name = web_01\n") && main.contains("StrictSubnets = no\n"),
        "{main}"
    );

    fs::write(
        tree.path().join("tinc.conf"),
        "Name = web_01\nColour = blue\n",
    )
    .unwrap();
    let (code, _, err) = run(&["convert", "--to", "toml", "--dry-run", dir]);
    assert!(
        code == 1 && err.starts_with("tinc.conf:2: error: Colour has no key"),
        "{err}"
    );
}

#[test]
fn keygen_makes_a_pair_that_check_accepts() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let private = tree.path().join("ed25519_key.priv");
    for file in ["ed25519_key.priv", "hosts/web_01"] {
        fs::remove_file(tree.path().join(file)).unwrap();
    }
    assert_eq!(run(&["check", dir]).0, 7);
    let (code, out, err) = run(&["-c", dir, "keygen", "--print-host"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let host = fs::read_to_string(tree.path().join("hosts/web_01")).unwrap();
    assert_eq!(out, host);
    assert_eq!(
        fs::metadata(&private).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(run(&["check", "--strict", dir]).0, 0);

    let before = fs::read(&private).unwrap();
    let kept = run(&["-c", dir, "keygen", "--keep", "--print-host"]);
    assert_eq!(kept, (0, host.clone(), String::new()));
    assert_eq!(fs::read(&private).unwrap(), before);

    let (code, out, err) = run(&["keygen", "--out", dir]);
    assert_eq!((code, out.as_str()), (8, ""));
    assert!(
        err.contains("holds a key already, so nothing was written"),
        "{err}"
    );
    assert_eq!(fs::read(&private).unwrap(), before);
    assert_eq!(
        fs::read_to_string(tree.path().join("hosts/web_01")).unwrap(),
        host
    );

    let (code, _, err) = run(&["keygen", "--out", dir, "--replace"]);
    assert_eq!(code, 0);
    assert!(err.contains("the old key is commented out"), "{err}");
    let again = fs::read_to_string(tree.path().join("hosts/web_01")).unwrap();
    assert!(again.starts_with(&format!("#{host}")), "{again}");
    assert_eq!(run(&["check", "--strict", dir]).0, 0);
    assert_eq!(run(&["keygen", "--out", dir, "--replace", "--keep"]).0, 2);

    let new = tree.path().join("new");
    let (code, out, _) = run(&["keygen", "--out", new.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "without a tinc.conf there is no name yet");
    let json: Value = serde_json::from_str(&out).unwrap();
    let public = fs::read_to_string(new.join("ed25519_key.pub")).unwrap();
    assert!(public.contains(json["data"]["public_key"].as_str().unwrap()));
    assert_eq!(run(&["keygen", "--out", "/proc/nowhere"]).0, 1);

    fs::write(&private, "no key").unwrap();
    let (code, _, err) = run(&["-c", dir, "keygen", "--keep"]);
    assert!(code == 1 && err.contains("--replace"), "{err}");
    assert_eq!(run(&["-c", dir, "keygen"]).0, 1);
    assert_eq!(fs::read(&private).unwrap(), b"no key");
    let new = tree.path().join("kept");
    let kept = ["keygen", "--out", new.to_str().unwrap(), "--keep"];
    assert_eq!(run(&kept).0, 0, "none yet: it makes one");
    assert!(new.join("ed25519_key.priv").exists());
}

/// The key that Ed25519PrivateKeyFile names is the one that counts: a second one beside it would shut the node out.
#[test]
fn keygen_looks_at_the_key_that_the_configuration_names() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    fs::create_dir(tree.path().join("keys")).unwrap();
    let (old, new) = ("ed25519_key.priv", "keys/mine");
    fs::rename(tree.path().join(old), tree.path().join(new)).unwrap();
    let conf = "Name = web_01\nEd25519PrivateKeyFile = keys/mine\n";
    fs::write(tree.path().join("tinc.conf"), conf).unwrap();
    assert_eq!(run(&["-c", dir, "keygen"]).0, 8);
    assert!(!tree.path().join(old).exists());
    assert_eq!(run(&["-c", dir, "keygen", "--replace"]).0, 0);
    assert!(!tree.path().join(old).exists());
    assert_eq!(run(&["check", "--strict", dir]).0, 0);
}

/// Wherever it is killed the next run completes it, and no run leaves a draft behind.
#[test]
fn a_keygen_that_was_killed_is_completed_by_the_next_one() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let at = |file: &str| tree.path().join(file);
    let private = at("ed25519_key.priv");
    let old = fs::read(&private).unwrap();
    let host = fs::read(at("hosts/web_01")).unwrap();
    let made = key(9);
    let draft = || fs::write(at("ed25519_key.priv.unfinished"), made.to_pem().as_bytes()).unwrap();
    // After the draft, after the public half, after the private one.
    for halves in 0..3 {
        fs::write(&private, &old).unwrap();
        fs::write(at("hosts/web_01"), &host).unwrap();
        draft();
        if halves > 0 {
            keys::write_public(&at("hosts/web_01"), &made.public()).unwrap();
        }
        if halves > 1 {
            keys::write_private(&private, &made).unwrap();
        }
        fs::write(at("hosts/web_01.new77"), "half").unwrap();
        let (code, _, err) = run(&["check", "--strict", dir]);
        assert!(
            code == 1 && err.contains("`meshctl keygen` completes it"),
            "{err}"
        );
        let (code, out, err) = run(&["-c", dir, "keygen", "--keep", "--print-host"]);
        assert_eq!(
            (code, out),
            (
                0,
                format!("{}\n", keys::public_line("h".as_ref(), &made.public()))
            )
        );
        assert!(err.contains("the key pair was incomplete"), "{err}");
        assert_eq!(run(&["check", "--strict", dir]).0, 0);
        let text = fs::read_to_string(at("hosts/web_01")).unwrap();
        assert_eq!(
            text.matches(&made.public().to_string()).count(),
            1,
            "{text}"
        );
        assert_eq!(run(&["-c", dir, "keygen"]).0, 8);
        let names: Vec<_> = fs::read_dir(tree.path())
            .unwrap()
            .chain(fs::read_dir(at("hosts")).unwrap())
            .collect();
        assert_eq!(names.len(), 5, "{names:?}");
    }
    // A private key whose public half was never written, as an older release has left it.
    fs::remove_file(at("hosts/web_01")).unwrap();
    assert_eq!(run(&["-c", dir, "keygen"]).0, 0);
    assert_eq!(run(&["check", "--strict", dir]).0, 0);
}

/// A second file in the form of tinc would make the daemon refuse the directory.
#[test]
fn keygen_writes_a_host_file_in_the_form_of_the_main_file() {
    let tree = tempfile::tempdir().unwrap();
    let dir = tree.path().to_str().unwrap();
    fs::create_dir(tree.path().join("hosts")).unwrap();
    assert_eq!(run(&["keygen", "--out", dir]).0, 0);
    fs::write(tree.path().join("meshd.toml"), "name = \"web_01\"\n").unwrap();
    assert_eq!(run(&["keygen", "--keep", "--out", dir]).0, 0);
    let names: Vec<_> = fs::read_dir(tree.path().join("hosts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["web_01.toml"]);
    assert_eq!(run(&["check", "--strict", dir]).0, 0);
}

#[test]
fn a_keygen_killed_at_any_moment_leaves_a_pair_or_is_completed() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    for round in 0..20 {
        let mut child = meshctl(&["-c", dir, "keygen", "--replace"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(1000 * round));
        let _ = child.kill();
        child.wait().unwrap();
        let (code, _, err) = run(&["-c", dir, "keygen"]);
        assert!(code == 0 || code == 8, "{code} {err}");
        assert_eq!(run(&["check", "--strict", dir]).0, 0, "{round}");
    }
}

/// Where the daemons of the next test have their configuration, and the seed of the key that they run with.
static RUNS: Mutex<Option<(String, u8)>> = Mutex::new(None);

fn with_key(request: Request) -> Option<Response> {
    let mut response = healthy(request)?;
    if let Response::Status(status) = &mut response {
        let (dir, seed) = RUNS.lock().unwrap().clone().unwrap();
        (status.config, status.public_key) = (dir, key(seed).public().to_string());
    }
    Some(response)
}

#[test]
fn check_and_health_see_that_the_running_key_is_not_the_files() {
    let tree = tree();
    let dir = tree.path().to_str().unwrap();
    let daemon = Daemon::new(with_key);
    let text = format!(
        "meshd runs with another key, {}: copy this file's key to all nodes, then restart meshd",
        key(7).public()
    );
    for (of, seed, told) in [(dir, 1, false), (dir, 7, true), ("/nowhere", 7, false)] {
        *RUNS.lock().unwrap() = Some((of.into(), seed));
        let (code, _, err) = daemon.run(&["-c", dir, "check", "--strict"]);
        assert_eq!(
            (code, err.contains(&text)),
            (i32::from(told), told),
            "{of} {seed}: {err}"
        );
        let (_, out, _) = daemon.run(&["health"]);
        assert_eq!(out.contains(&text), told, "{of} {seed}: {out}");
    }
    let line = "ed25519_key.priv: warning: ";
    *RUNS.lock().unwrap() = Some((dir.into(), 7));
    assert!(daemon.run(&["-c", dir, "check"]).2.starts_with(line));
    // Who may not read the private key is told by the host file.
    fs::remove_file(tree.path().join("ed25519_key.priv")).unwrap();
    fs::create_dir(tree.path().join("ed25519_key.priv")).unwrap();
    let (_, out, _) = daemon.run(&["health", "--json"]);
    assert!(out.contains(&text) && out.contains("hosts/web_01"), "{out}");
}
