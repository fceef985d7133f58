//! A graph as text: a tree for terminals, and the languages of Graphviz and Mermaid.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
};

use crate::{
    graph::{Dot, Graph, Kind},
    table::{bytes, symbols},
};

/// Maximum width of a line of links outside of the tree, in characters.
const WIDTH: usize = 100;

fn mark(kind: Kind, utf8: bool) -> char {
    let [udp, tcp, via, down] = symbols(utf8);
    match kind {
        Kind::Own => '@',
        Kind::Direct | Kind::Configured => udp,
        Kind::Tcp => tcp,
        Kind::Relayed => via,
        Kind::Legacy => '%',
        Kind::Unreachable => down,
    }
}

fn node_text(dot: &Dot, traffic: bool, utf8: bool) -> String {
    let mut text = format!("{} {}  {}", mark(dot.kind, utf8), dot.name, dot.kind.word());
    if let Some(via) = &dot.via {
        text.push_str(&format!(" by {via}"));
    }
    if let (true, Some(rx), Some(tx)) = (traffic, dot.rx_bytes, dot.tx_bytes) {
        text.push_str(&format!("  in {} out {}", bytes(rx), bytes(tx)));
    }
    text
}

/// Prints our node, its neighbours, and their neighbours; then the other links, and nodes without links.
pub(super) fn tree(graph: &Graph, utf8: bool) -> String {
    let dots: BTreeMap<&str, &Dot> = graph
        .nodes
        .iter()
        .map(|dot| (dot.name.as_str(), dot))
        .collect();
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &graph.links {
        next.entry(&line.from).or_default().push(&line.to);
        next.entry(&line.to).or_default().push(&line.from);
    }
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut parent: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let own = graph.nodes.iter().find(|dot| dot.kind == Kind::Own);
    let roots = own.into_iter().chain(&graph.nodes);
    let mut firsts = Vec::new();
    for root in roots.map(|dot| dot.name.as_str()) {
        if parent.contains_key(root)
            || !next.contains_key(root) && Some(root) != own.map(|dot| dot.name.as_str())
        {
            continue;
        }
        firsts.push(root);
        parent.insert(root, None);
        let mut queue = VecDeque::from([root]);
        while let Some(at) = queue.pop_front() {
            let mut ends = next.get(at).cloned().unwrap_or_default();
            ends.sort_unstable();
            for end in ends {
                if !parent.contains_key(end) {
                    parent.insert(end, Some(at));
                    children.entry(at).or_default().push(end);
                    queue.push_back(end);
                }
            }
        }
    }
    let mut out = format!("{}\n", graph.title);
    let rails = if utf8 {
        ["├─ ", "└─ ", "│  ", "   "]
    } else {
        ["|- ", "`- ", "|  ", "   "]
    };
    for root in firsts {
        let mut stack = vec![(root, String::new(), String::new())];
        while let Some((name, lead, below)) = stack.pop() {
            let Some(dot) = dots.get(name) else { continue };
            out.push_str(&format!("{lead}{}\n", node_text(dot, graph.traffic, utf8)));
            let ends = children.get(name).map(Vec::as_slice).unwrap_or_default();
            for (at, end) in ends.iter().enumerate().rev() {
                let (branch, rail) = match at + 1 == ends.len() {
                    true => (rails[1], rails[3]),
                    false => (rails[0], rails[2]),
                };
                stack.push((end, format!("{below}{branch}"), format!("{below}{rail}")));
            }
        }
    }
    let in_tree = |a: &str, b: &str| parent.get(a).copied().flatten() == Some(b);
    let rest = graph
        .links
        .iter()
        .filter(|line| !in_tree(&line.from, &line.to) && !in_tree(&line.to, &line.from));
    let rest: Vec<String> = rest
        .map(|line| format!("{}-{}", line.from, line.to))
        .collect();
    wrapped(&mut out, "other links", &rest);
    let alone = graph
        .nodes
        .iter()
        .filter(|dot| !parent.contains_key(dot.name.as_str()));
    let alone: Vec<String> = alone
        .map(|dot| format!("{} ({})", dot.name, dot.kind.word()))
        .collect();
    wrapped(&mut out, "no link", &alone);
    out
}

fn wrapped(out: &mut String, head: &str, words: &[String]) {
    if words.is_empty() {
        return;
    }
    let mut line = format!("{head} ({}):", words.len());
    for word in words {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            line = "\n ".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

/// Prints the graph for Graphviz.
pub(super) fn dot(graph: &Graph) -> String {
    let mut out = String::from(
        "graph mesh {\n overlap = false;\n splines = true;\n node [shape = circle, style = filled, fontcolor = white];\n",
    );
    for dot in &graph.nodes {
        let colour = dot.kind.colour();
        let _ = writeln!(
            out,
            " \"{}\" [label = \"{}\", fillcolor = \"{colour}\", color = \"{colour}\"];",
            dot.name,
            label(dot, graph.traffic, "\\n")
        );
    }
    for line in &graph.links {
        let colour = line.kind.map_or("#b8b8b8", Kind::colour);
        let weight = line.weight.map_or_else(String::new, |weight| {
            format!(", comment = \"weight {weight}\"")
        });
        let _ = writeln!(
            out,
            " \"{}\" -- \"{}\" [color = \"{colour}\"{weight}];",
            line.from, line.to
        );
    }
    out.push_str("}\n");
    out
}

/// Prints the graph for Mermaid. Nodes are numbered, because names such as `end` are keywords.
pub(super) fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("graph LR\n");
    let index = graph.index();
    for (at, dot) in graph.nodes.iter().enumerate() {
        let _ = writeln!(
            out,
            "  n{at}([\"{}\"]):::{}",
            label(dot, graph.traffic, "<br/>"),
            class(dot.kind)
        );
    }
    for line in &graph.links {
        if let (Some(from), Some(to)) = (index.get(line.from.as_str()), index.get(line.to.as_str()))
        {
            let _ = writeln!(out, "  n{from} --- n{to}");
        }
    }
    for kind in Kind::ALL
        .into_iter()
        .filter(|kind| graph.nodes.iter().any(|dot| dot.kind == *kind))
    {
        let _ = writeln!(
            out,
            "  classDef {} fill:{},color:#ffffff",
            class(kind),
            kind.colour()
        );
    }
    out
}

fn label(dot: &Dot, traffic: bool, newline: &str) -> String {
    match (traffic, dot.rx_bytes, dot.tx_bytes) {
        (true, Some(rx), Some(tx)) => {
            format!("{}{newline}in {} out {}", dot.name, bytes(rx), bytes(tx))
        }
        _ => dot.name.clone(),
    }
}

fn class(kind: Kind) -> String {
    kind.word().replace(' ', "_")
}
