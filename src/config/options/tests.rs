//! The command lines of meshd and tincd.

use super::*;

fn run(line: &str) -> Options {
    match parse(Called::Meshd, line.split_whitespace().map(Into::into)) {
        Ok(Command::Run(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(Called::Meshd, line.split_whitespace().map(Into::into)).unwrap_err()
}

#[test]
fn the_daemons_names_make_it_the_daemon() {
    for (program, daemon) in [
        ("meshd", true),
        ("/usr/sbin/tincd", true),
        ("./meshd", true),
        ("meshctl", false),
        ("/opt/meshd/meshctl", false),
        ("meshd-old", false),
    ] {
        assert_eq!(
            Called::is_daemon(Some(OsStr::new(program))),
            daemon,
            "{program}"
        );
    }
    assert!(!Called::is_daemon(None));
}

#[test]
fn takes_every_form_that_tincd_takes() {
    let options = run("-n priv -c/etc/tinc/priv -D -o Interface=mesh0 --option web.Port=656 -LR");
    assert_eq!(options.net.as_deref(), Some("priv"));
    assert_eq!(options.config, Some("/etc/tinc/priv".into()));
    assert_eq!(options.options, ["Interface=mesh0", "web.Port=656"]);
    assert!(options.mlock && options.chroot);
    let options = run("--net=a --net b --pid /run/x.pid --user nobody");
    assert_eq!(options.net.as_deref(), Some("b"));
    assert_eq!(options.pidfile, Some("/run/x.pid".into()));
    assert_eq!(options.user.as_deref(), Some("nobody"));
}

#[test]
fn debug_swallows_its_neighbour() {
    for (line, level) in [
        ("-d", Some(1)),
        ("-d -d", Some(2)),
        ("-d5", Some(5)),
        ("-d 2", Some(2)),
        ("-d two -D", Some(0)),
        ("--debug=3", Some(3)),
        ("--debug 4 -d", Some(5)),
        ("-d 99", Some(10)),
        ("-D", None),
    ] {
        assert_eq!(run(line).debug, level, "{line}");
    }
}

#[test]
fn log_goes_where_the_last_option_says() {
    assert_eq!(run("--logfile").logfile, Some(None));
    assert_eq!(run("--logfile /x").logfile, Some(Some("/x".into())));
    assert_eq!(run("--logfile=/x -D").logfile, Some(Some("/x".into())));
    let options = run("--logfile=/x -s");
    assert!(options.syslog && options.logfile.is_none());
}

#[test]
fn refuses_the_rest_with_a_sentence() {
    for (line, word) in [
        ("-x", "unknown option -x"),
        ("-Dk", "unknown option -k"),
        ("--nonsense", "unknown option --nonsense"),
        ("--o=1 extra", "unrecognized argument"),
        ("-c", "needs a value"),
        ("--mlock=yes", "takes no value"),
        ("--bypass-security", "never runs without"),
    ] {
        let error = error(line);
        assert!(error.contains(word), "{line}: {error}");
    }
    assert!(error("--c").contains("ambiguous"));
}

#[test]
fn help_and_version_win() {
    assert_eq!(
        parse(Called::Meshd, ["-D", "--help"].map(Into::into)),
        Ok(Command::Help)
    );
    assert_eq!(
        parse(Called::Meshd, ["--vers"].map(Into::into)),
        Ok(Command::Version)
    );
}

#[test]
fn tincd_kills_by_every_form_and_meshd_by_none() {
    for (line, signal) in [
        ("-k", Signal::TERM),
        ("-n priv -kHUP", Signal::HUP),
        ("-k usr1 --pidfile=/x", Signal::USR1),
        ("--kill=SIGALRM", Signal::ALARM),
        ("--kill 10", Signal::USR1),
        ("-k -n priv", Signal::TERM),
    ] {
        let words = line.split_whitespace().map(Into::into);
        match parse(Called::Tincd, words) {
            Ok(Command::Kill(options, found)) => {
                assert_eq!(found, signal, "{line}");
                assert_eq!(options.net.is_some(), line.contains("priv"), "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    for bad in ["-kNONE", "-k 0", "-k 99"] {
        let error = parse(Called::Tincd, bad.split(' ').map(Into::into)).unwrap_err();
        assert!(error.contains("is not a signal"), "{bad}: {error}");
    }
    assert!(error("-k").contains("unknown option"));
    assert!(error("--detached").contains("unknown option"));
}

#[test]
fn the_name_is_the_last_part_of_the_path() {
    for (program, called) in [
        ("/usr/sbin/tincd", Called::Tincd),
        ("tincd", Called::Tincd),
        ("/tincd/meshd", Called::Meshd),
        ("meshd", Called::Meshd),
    ] {
        assert_eq!(Called::by(Some(program.as_ref())), called, "{program}");
    }
}
