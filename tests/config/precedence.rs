//! Which of several lines counts, and who we are.

use meshd::config::{expand_name, load};

use crate::Tree;

fn port(tree: &Tree) -> u16 {
    let config = tree
        .load()
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    config.settings.port
}

/// The rows of config/tinc.md section 1.3.
#[test]
fn options_come_first_then_lower_lines_then_files_by_path() {
    let mut tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\nPort = 1\nPort = 2\n");
    assert_eq!(port(&tree), 1, "the first in one file");

    tree.write(
        "tinc.conf",
        &format!("Name = me\n{}Port = 16\n", "#\n".repeat(14)),
    );
    tree.write("hosts/me", "Port = 100\n");
    assert_eq!(port(&tree), 100, "the lower line, whatever the file");
    tree.write("hosts/me", &format!("{}Port = 100\n", "#\n".repeat(20)));
    assert_eq!(port(&tree), 16, "and the other way round");

    tree.write("tinc.conf", "Name = me\nPort = 1\n");
    tree.write("hosts/me", "#\nPort = 2\n");
    assert_eq!(port(&tree), 2, "hosts before tinc.conf on the same line");
    tree.write("conf.d/z.conf", "#\nPort = 3\n");
    assert_eq!(port(&tree), 3, "conf.d before both");

    tree.option("Port=5").option("me.Port=6");
    assert_eq!(port(&tree), 5, "the first option, with or without the node");
    tree.options.reverse();
    assert_eq!(port(&tree), 6);
    tree.options = vec!["Port=1".into(), "Port=2".into()];
    assert_eq!(port(&tree), 1);
    tree.options = vec!["ME.Port=7".into(), "me.pORT=8".into()];
    assert_eq!(port(&tree), 8, "the node part has case, the key has none");
}

#[test]
fn several_values_come_in_the_same_order() {
    let mut tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\n#\n#\nConnectTo = a\n");
    tree.write("conf.d/x.conf", "#\nConnectTo = b\n");
    let names = |tree: &Tree| tree.clean().settings.connect_to.clone();
    assert_eq!(
        names(&tree).iter().map(|n| n.as_str()).collect::<Vec<_>>(),
        ["b", "a"]
    );
    tree.option("ConnectTo=a");
    assert_eq!(
        names(&tree).iter().map(|n| n.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn conf_d_holds_what_ends_in_conf_and_has_a_name_before_that() {
    let tree = Tree::of_three();
    tree.write("conf.d/.conf", "Port = 1\n");
    tree.write("conf.d/x.conf.bak", "Port = 2\n");
    tree.write("conf.d/xconf", "Port = 3\n");
    assert_eq!(port(&tree), 655);
    tree.write("conf.d/x.conf", "Port = 4\n");
    assert_eq!(port(&tree), 4);
    tree.write("conf.d/y.conf", "Mode =\n");
    assert!(
        tree.load().is_err(),
        "a bad file there is as bad as in tinc.conf"
    );
}

#[test]
fn variables_may_stand_in_either_kind_of_file() {
    let tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\nSubnet = 10.9.0.0/16\nWeight = 3\n");
    tree.write("hosts/me", "PingInterval = 20\n");
    let settings = tree.load().unwrap().settings;
    assert_eq!(settings.subnets[0].to_string(), "10.9.0.0/16");
    assert_eq!(settings.weight, Some(3));
    assert_eq!(settings.ping_interval.as_secs(), 20);
}

#[test]
fn options_for_others_count_in_their_host_files() {
    let mut tree = Tree::of_three();
    tree.option("a.TCPOnly=yes").option("a.Address=192.0.2.1 7");
    let config = tree.clean();
    let [a, b] = ["a", "b"].map(|name| config.settings.hosts[&name.parse().unwrap()].clone());
    assert!(a.tcp_only && a.indirect && !b.tcp_only);
    assert_eq!(a.addresses[0].host, "192.0.2.1", "options come first");
    assert_eq!(a.addresses.len(), 2);
}

#[test]
fn a_malformed_option_is_named_by_its_number() {
    let mut tree = Tree::of_three();
    tree.option("Port=1").option("Port");
    let problems = load(&tree.source(), None).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "command line option:2: \"Port\" is not of the form [NODE.]KEY=VALUE"
    );
}

/// The rows of config/tinc.md section 1.5.
#[test]
fn names_come_from_the_file_the_environment_or_the_host() {
    let env = |name: &str| (name == "VPN").then(|| "web-01.example".to_owned());
    let expand = |value: &str| expand_name(value, env, || "db-1.long.host.name".into());
    assert_eq!(expand("web_01"), Ok("web_01".into()));
    assert_eq!(expand("$VPN"), Ok("web_01_example".into()));
    assert_eq!(expand("$HOST"), Ok("db_1_long_host_name".into()));
    assert!(
        expand("$NAME").unwrap_err().contains("NAME"),
        "nothing special"
    );
    let env = |name: &str| (name == "HOST").then(|| "other".to_owned());
    assert_eq!(expand_name("$HOST", env, || "x".into()), Ok("other".into()));
}

/// T34: a name is never a path.
#[test]
fn names_that_could_be_paths_are_refused_wherever_they_stand() {
    let long = "x".repeat(256);
    let endless = "x".repeat(2048);
    for bad in [
        "..",
        "/",
        ".",
        "a/b",
        "a-up",
        "n\u{e9}",
        "<control>",
        "^",
        "?",
        "a b",
        &long,
        &endless,
    ] {
        let tree = Tree::of_three();
        tree.write("tinc.conf", &format!("Name = {bad}\n"));
        let said = tree.said();
        assert!(
            said.iter()
                .any(|line| line.starts_with("tinc.conf:1: invalid name")),
            "{said:?}"
        );

        let mut tree = Tree::of_three();
        tree.option(&format!("ConnectTo={bad}"))
            .option("ConnectTo=a");
        let config = tree.load().unwrap();
        assert_eq!(config.settings.connect_to, ["a".parse().unwrap()], "{bad}");
    }
    let tree = Tree::of_three();
    tree.write("tinc.conf", "Name = me\nConnectTo = me\n");
    assert!(
        tree.clean().settings.connect_to.is_empty(),
        "ourselves are skipped"
    );
}

#[test]
fn files_whose_names_are_no_node_names_are_no_host_files() {
    let tree = Tree::of_three();
    for other in ["a-up", "a.bak", ".a", "a~", "a.meshd-new"] {
        tree.write(&format!("hosts/{other}"), "Weight =\n");
    }
    assert_eq!(crate::nodes(&tree.clean()), ["a", "b"]);
}
