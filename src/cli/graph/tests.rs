use super::{shapes::Shape, *};

fn peer(name: &str, path: PathKind, protocol: impl Into<Option<Dialect>>) -> PeerRow {
    PeerRow {
        name: name.into(),
        path,
        up: path != PathKind::Down,
        protocol: protocol.into(),
        via: (path == PathKind::Via).then(|| "lb".into()),
        rx_bytes: 1_200_000,
        tx_bytes: 40_000,
        ..PeerRow::default()
    }
}

fn edges(links: &[(&str, &str)]) -> Vec<EdgeRow> {
    let one = |from: &str, to: &str, weight| EdgeRow {
        from: from.into(),
        to: to.into(),
        host: "h".into(),
        port: "1".into(),
        local_host: "l".into(),
        local_port: "2".into(),
        options: 0,
        weight,
    };
    let both = links.iter().flat_map(|(a, b)| [one(a, b, 5), one(b, a, 7)]);
    both.collect()
}

/// A graph with one node of each kind.
fn small(traffic: bool) -> Graph {
    let peers = [
        peer("db", PathKind::Udp, Dialect::Native),
        peer("cache", PathKind::Tcp, Dialect::Sptps),
        peer("lb", PathKind::Udp, Dialect::Native),
        peer("old", PathKind::Udp, Dialect::Legacy),
        peer("web_09", PathKind::Via, Dialect::Native),
        peer("gone", PathKind::Down, None),
    ];
    let links = [
        ("web", "db"),
        ("web", "cache"),
        ("lb", "web"),
        ("old", "web"),
        ("lb", "web_09"),
        ("db", "lb"),
        ("x", "y"),
    ];
    let mut graph = graph("web", &peers, &edges(&links), traffic);
    graph.title = "priv, seen from web".into();
    graph
}

/// Hubs in a ring, and many nodes that have links to two of them.
fn large(count: usize) -> Graph {
    let name = |at: usize| format!("node_{at:03}");
    let hubs = 2 + count / 40;
    let mut links = Vec::new();
    for at in 0..hubs {
        links.push((name(at), name((at + 1) % hubs)));
    }
    for at in hubs..count {
        links.push((name(at), name(at % hubs)));
        links.push((name(at), name((at * 7 + 1) % hubs)));
    }
    let peers: Vec<PeerRow> = (1..count)
        .map(|at| match at % 11 {
            3 => peer(&name(at), PathKind::Tcp, Dialect::Sptps),
            5 => peer(&name(at), PathKind::Via, Dialect::Native),
            7 => peer(&name(at), PathKind::Udp, Dialect::Legacy),
            9 => peer(&name(at), PathKind::Down, None),
            _ => peer(&name(at), PathKind::Udp, Dialect::Native),
        })
        .collect();
    let links: Vec<(&str, &str)> = links
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let mut graph = graph(&name(0), &peers, &edges(&links), false);
    graph.title = format!("{count} nodes");
    graph
}

#[test]
fn each_link_is_there_once_and_each_node_has_its_kind() {
    let graph = small(false);
    let kinds: Vec<Kind> = graph.nodes.iter().map(|dot| dot.kind).collect();
    let names: Vec<&str> = graph.nodes.iter().map(|dot| dot.name.as_str()).collect();
    assert_eq!(names, ["cache", "db", "gone", "lb", "old", "web", "web_09"]);
    use Kind::{Direct, Legacy, Own, Relayed, Tcp, Unreachable};
    assert_eq!(
        kinds,
        [Tcp, Direct, Unreachable, Direct, Legacy, Own, Relayed]
    );
    assert_eq!(graph.links.len(), 6, "x and y are no nodes");
    let line = graph
        .links
        .iter()
        .find(|line| line.from == "cache")
        .unwrap();
    assert_eq!(
        (line.to.as_str(), line.weight, line.kind),
        ("web", Some(7), Some(Tcp))
    );
    let others = graph.links.iter().filter(|line| line.kind.is_none());
    assert_eq!(others.count(), 2);
}

#[test]
fn trees_show_every_node_once() {
    let text = text::tree(&small(true), true);
    let wanted = "\
priv, seen from web
@ web  this node
├─ ◐ cache  tcp  in 1.2M out 40k
├─ ● db  direct  in 1.2M out 40k
├─ ● lb  direct  in 1.2M out 40k
│  └─ ◑ web_09  relayed by lb  in 1.2M out 40k
└─ % old  legacy  in 1.2M out 40k
other links (1): db-lb
no link (1): gone (unreachable)
";
    assert_eq!(text, wanted);
    let text = text::tree(&large(300), false);
    assert!(text.is_ascii());
    assert!(text.lines().all(|line| line.len() <= 110), "{text}");
    for at in 0..300 {
        let name = format!(" node_{at:03}  ");
        assert_eq!(text.matches(&name).count(), 1, "{name}");
    }
}

#[test]
fn graphviz_and_mermaid_get_all_nodes_and_links() {
    let graph = small(true);
    let dot = text::dot(&graph);
    assert!(dot.starts_with("graph mesh {") && dot.ends_with("}\n"));
    assert!(
        dot.contains(r##" "old" [label = "old\nin 1.2M out 40k", fillcolor = "#cc79a7""##),
        "{dot}"
    );
    assert_eq!(dot.matches(" -- ").count(), 6);
    let mermaid = text::mermaid(&graph);
    assert!(
        mermaid.contains("  n5([\"web\"]):::this_node\n"),
        "{mermaid}"
    );
    assert_eq!(mermaid.matches(" --- ").count(), 6);
    assert_eq!(mermaid.matches("classDef").count(), 6);
}

/// Returns overlapping boxes of words.
fn collisions(scene: &shapes::Scene) -> usize {
    let words: Vec<([f64; 2], usize)> = scene
        .shapes
        .iter()
        .filter_map(|shape| match shape {
            Shape::Words {
                at,
                centred: true,
                text,
                ..
            } => Some((*at, text.len())),
            _ => None,
        })
        .collect();
    let on = |(a, la): ([f64; 2], usize), (b, lb): ([f64; 2], usize)| {
        let wide = (la + lb) as f64 * shapes::SMALL * 0.6 / 2.0;
        (a[0] - b[0]).abs() < wide && (a[1] - b[1]).abs() < shapes::SMALL
    };
    let pairs = (0..words.len()).flat_map(|a| (a + 1..words.len()).map(move |b| (a, b)));
    pairs.filter(|(a, b)| on(words[*a], words[*b])).count()
}

#[test]
fn pictures_are_the_same_each_time_and_no_name_lies_on_another() {
    for graph in [large(3), small(true), large(8), large(40), large(300)] {
        let scene = shapes::scene(&graph);
        assert_eq!(scene, shapes::scene(&graph));
        assert_eq!(collisions(&scene), 0, "{}", graph.title);
        let discs = scene
            .shapes
            .iter()
            .filter(|shape| matches!(shape, Shape::Disc { .. }));
        let kinds: BTreeSet<Kind> = graph.nodes.iter().map(|dot| dot.kind).collect();
        assert_eq!(
            discs.count(),
            graph.nodes.len() + kinds.len(),
            "nodes and the legend"
        );
        let lines = scene
            .shapes
            .iter()
            .filter(|shape| matches!(shape, Shape::Line { .. }));
        assert_eq!(lines.count(), graph.links.len());
        let [width, height] = scene.size;
        for shape in &scene.shapes {
            if let Shape::Disc { at, .. } | Shape::Words { at, .. } = shape {
                assert!(
                    (0.0..width).contains(&at[0]) && (0.0..height).contains(&at[1]),
                    "{at:?}"
                );
            }
        }
        assert!(width < 9_000.0 && height < 9_000.0, "{width} {height}");
    }
}

#[test]
fn svg_is_well_formed_and_png_has_the_size_of_the_scene() {
    let mut graph = small(false);
    graph.title = "<a&b>\u{1b}".into();
    let scene = shapes::scene(&graph);
    let svg = svg::draw(&scene);
    assert!(svg.contains("&lt;a&amp;b&gt; </text>"), "{svg}");
    assert_eq!(svg.matches("<circle").count(), 13);
    assert_eq!(svg.matches("<line").count(), 6);
    assert!(
        svg.lines()
            .skip(1)
            .all(|line| line.starts_with('<') && line.ends_with('>'))
    );
    let png = png::draw(&scene).unwrap();
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!([f64::from(side(16)), f64::from(side(20))], scene.size);
    if let Some(dir) = std::env::var_os("MESHD_PICTURES") {
        let dir = PathBuf::from(dir);
        for graph in [large(3), small(true), large(8), large(40), large(300)] {
            let file = dir.join(format!("{}.png", graph.nodes.len()));
            std::fs::write(&file, png::draw(&shapes::scene(&graph)).unwrap()).unwrap();
            let file = dir.join(format!("{}.svg", graph.nodes.len()));
            std::fs::write(&file, svg::draw(&shapes::scene(&graph))).unwrap();
        }
    }
}

#[test]
fn one_node_alone_is_a_picture_too() {
    let graph = graph("web", &[], &[], false);
    let scene = shapes::scene(&graph);
    assert!(png::draw(&scene).is_ok());
    assert_eq!(text::tree(&graph, true), "\n@ web  this node\n");
}
